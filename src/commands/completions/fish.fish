# Completions of compose-zd for fish.
function __compose_zd
    compose-zd __complete fish (commandline -opc) (commandline -ct) 2>/dev/null
end
complete -c compose-zd -f -a '(__compose_zd)'
