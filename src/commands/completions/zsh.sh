#compdef compose-zd
_compose_zd() {
    local line result=1
    local -a all open
    for line in "${(@f)$(compose-zd __complete zsh "${(@)words[1,CURRENT-1]}" "$PREFIX" 2>/dev/null)}"; do
        [[ ${line%%:*} == *[=/] ]] && open+=("$line") || all+=("$line")
    done
    [[ -n $all ]] && _describe -V compose-zd all && result=0
    [[ -n $open ]] && _describe -V compose-zd open -S '' && result=0
    return $result
}
if [[ ${funcstack[1]} == _compose-zd ]]; then _compose_zd "$@"; else compdef _compose_zd compose-zd; fi
