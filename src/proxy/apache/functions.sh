# Functions of the scripts that run in Apache's container.

# Sets the number of the master process, and NUMBER:START of its children, in ticks since boot.
processes() {
  master= children= all=
  for p in /proc/[0-9]*; do
    read -r stat < "$p/stat" || continue
    case $stat in *"(httpd)"* | *"(apache2)"*) ;; *) continue ;; esac
    set -- ${stat##*) }
    all="$all ${p#/proc/}:$2:${20}"
  done 2>/dev/null
  oldest=
  for one in $all; do
    parent=${one#*:} start=${one##*:}
    case $all in *" ${parent%:*}:"*) continue ;; esac
    [ -n "$oldest" ] && [ "$start" -ge "$oldest" ] || oldest=$start master=${one%%:*}
  done
  for one in $all; do
    case $one in *":$master:"*) children="$children ${one%%:*}:${one##*:}" ;; esac
  done
}

apache() {
  program=$(readlink "/proc/$master/exe" 2>/dev/null)
  [ -x "$program" ] || program=$(command -v httpd || command -v apache2)
  { cat "/proc/$master/environ" 2>/dev/null; printf '%s\0' "$program"
    tr '\0' '\n' < "/proc/$master/cmdline" 2>/dev/null | sed '1d; /^-X$/d; /^-k$/,+1d' | tr '\n' '\0'
    printf '%s\0' "$@"; } | xargs -0 env
}

# True if a child of the master has started since this moment.
has_new_child() {
  processes
  for child in $children; do [ "${child#*:}" -lt "$1" ] || return 0; done
  return 1
}

# Sets the moment in ticks since boot.
ticks() { read -r up rest < /proc/uptime; now=${up%.*}${up#*.}; }

# Reads the own lines of the hosts file and the others. True if the own ones can change places.
read_lines() {
  own=$(own_lines) others=$(other_lines)
  case $own in *"
"*) [ $((${#own} + ${#others} + 2)) -eq "$(wc -c < /etc/hosts)" ] ;; *) false ;; esac
}

# Moves the first own line to the end. A child takes the first address when it gets its first request, so this spreads the
# children. The file keeps its length and is never empty.
rotate() {
  own="${own#*
}
${own%%
*}"
  printf '%s\n' "$others" "$own" 1<> /etc/hosts
}
