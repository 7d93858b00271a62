# Watches the pins of a service in /etc/hosts, once a second:
# - finishes a reload that a change of the pins needs,
# - keeps only pins of running instances, and removes the pins if none of their instances runs any more,
# - after 15 minutes removes pins that fix nothing.
#
# Docker's DNS lists the running instances. A name with a dot at its end is not looked up in the hosts file. The watcher
# starts before the first pin, and ends with the last one; without pins it ends after two minutes. Of two watchers the first
# one stays.
#
# Variables: mark, owner, end and names. Functions: write, is_loaded, send_reload and
# each_second.

# Addresses of the running instances.
live() {
  for name in $names; do
    if command -v nslookup >/dev/null; then nslookup "$name" 2>/dev/null | sed -n '3,$s/^Address[ 0-9]*: *//p'
    else getent ahosts "$name"; fi
  done | while read -r address rest; do echo "$address"; done | sort -u
}

pinned() { sed -n "s| .*$end||p" /etc/hosts | grep -v '^#' | sort -u; }

# True if a list has an address; one a line.
has() { case "
$1
" in *"
$2
"*) return 0 ;; esac; return 1; }

# True if the program has read the hosts file since this moment; else it reloads.
reload() {
  is_loaded "$1" && return 0
  send_reload
  return 1
}

# Fixes the names to these addresses only.
pin() {
  addresses=$1
  set -- "# since $now was  # $owner"
  for address in $addresses; do
    for name in $names; do set -- "$@" "$address ${name%.} # $owner"; done
  done
  write "$@"
}

# Removes the pins. `due` is the moment from which all workers have to be newer, or 0; `have` is what they have then.
forget_pins() { write; have=$all due=$now left=60; }

# True if there are pins, none of them of a running instance. Reads both again: the pins or the instances may have changed
# since the last look.
is_stale() {
  pins=$(pinned) all=$(live)
  [ -n "$pins" ] && [ -n "$all" ] || return 1
  for address in $pins; do if has "$all" "$address"; then return 1; fi; done
}

watch_pins() {
  each_second
  was_pinned=1 left=120 here= gone=
  since=$(sed -n "s|^# since \([0-9]*\) .*$end|\1|p" /etc/hosts)
  for address in $(pinned); do
    if has "$all" "$address"; then here="$here $address"; else gone=1; fi
  done
  if [ "${since:-0}" -gt 0 ] && ! is_loaded "$since"; then late=$((late + 1)); else late=0; fi
  [ $late -lt 6 ] || { reload "$since"; late=1; }
  [ -n "$all" ] || return
  if [ -n "$gone" ]; then lost=$((lost + 1)); else lost=0; fi
  if [ -z "$here" ]; then ! is_stale || forget_pins
  elif [ $lost -ge 5 ]; then pin "$here"
  elif [ $n -ge 900 ] && [ $late = 0 ] && [ "$(pinned)" = "$all" ]; then write; exit; fi
}

watch_names() {
  [ -z "$was_pinned" ] || [ "$due" -gt 0 ] || [ $left -le 60 ] || exit
  left=$((left - 1))
  [ $left -gt 0 ] || exit
  [ -n "$all" ] || return
  for address in $have; do if has "$all" "$address"; then return; fi; done
  have=$all due=$now left=60
}

for p in /proc/[0-9]*; do
  title=; read -r title < "$p/cmdline"
  case $title in *"# $mark") [ "${p#/proc/}" -ge $$ ] || exit 0 ;; esac
done 2>/dev/null

have=$(live) was_pinned= due=0 late=0 lost=0 n=0 left=120
while sleep 1; do
  read -r up rest < /proc/uptime
  now=${up%.*}${up#*.} n=$((n + 1)) all=$(live)
  if grep -q "$end" /etc/hosts; then watch_pins; else watch_names; fi
  [ "$due" = 0 ] || [ -z "$all" ] || { reload "$due" && due=0; }
done
