# Functions of the watcher in Apache's container.

reloaded=0
is_loaded() { [ $reloaded -gt "$1" ] || grep -q "^# reloaded$end" /etc/hosts; }

# Apache ends if its configuration has an error at a restart.
send_reload() {
  processes
  [ -n "$master" ] && apache -t >/dev/null 2>&1 || return
  ticks
  moment=$now
  kill -USR1 "$master" || return
  for n_wait in 1 2 3 4 5; do
    has_new_child "$moment" || { sleep 1; continue; }
    reloaded=$moment
    ! grep -q "$end" /etc/hosts || echo "# reloaded # $owner" >> /etc/hosts
    return
  done
}

own_lines() { grep "^[^#].*$end" /etc/hosts; }
other_lines() { grep -v "^[^#].*$end" /etc/hosts; }
each_second() { { flock -x 9 2>/dev/null; ! read_lines || rotate; } 9>> /etc/hosts; }
