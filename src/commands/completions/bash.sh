# Completions of compose-zd for bash.
_compose_zd() {
    local IFS=$'\n'
    COMPREPLY=($(compose-zd __complete bash "${COMP_WORDS[@]:0:COMP_CWORD}" "$2" 2>/dev/null))
    [[ ${COMPREPLY[0]-} == *[=/] ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -F _compose_zd compose-zd
