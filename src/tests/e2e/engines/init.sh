# First process of a test engine: builds its own root from the folder of engines, and starts an engine in it. The
# kernel ends all other processes with it. The script ends with its input, so also when the test is killed.
set -e
engines=$1 folder=$2 kind=$3 name=$4
root=$folder/root
socket=unix://$folder/docker.sock

echo "$name" >/proc/sys/kernel/hostname
mkdir -p "$folder"/{root,upper,work,data}
mount -t overlay -o "lowerdir=$engines,upperdir=$folder/upper,workdir=$folder/work" overlay "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs none "$root/run"
# Test projects keep their paths in the new root. An overlay cannot hold another overlay.
mkdir -p "$root/$folder" "$root/${TMPDIR:-/tmp}"
mount --rbind "${TMPDIR:-/tmp}" "$root/${TMPDIR:-/tmp}"
mkdir -p "$root/old"
cd "$root"
# Not chroot alone: a process that joins a container of such an engine would find itself in this machine's root.
pivot_root . old
umount -l /old

# The usual socket path, which proxies mount.
both="--host $socket --host unix:///run/docker.sock"
cgroups="--exec-opt native.cgroupdriver=cgroupfs --cgroup-parent=/$name"
case $kind in
    docker) start="dockerd $both $cgroups --data-root $folder/data" ;;
    containerd) start="dockerd $both $cgroups --data-root $folder/data --feature containerd-snapshotter=true" ;;
    rootless)
        # The rootless network needs a device that only root may open on some machines.
        mount -t tmpfs none /dev/net
        mknod -m 666 /dev/net/tun c 10 200
        mkdir -p /run/user/7777
        chown rootless /run/user/7777 "$folder" "$folder/data"
        start="setpriv --reuid rootless --regid rootless --init-groups
            env HOME=/home/rootless XDG_RUNTIME_DIR=/run/user/7777
            rootlesskit --net=slirp4netns --mtu=65520 --disable-host-loopback --port-driver=builtin
            --copy-up=/etc --copy-up=/run --propagation=rslave
            dockerd --rootless $both --data-root $folder/data"
        ;;
    podman)
        # The Podman runtime refuses a machine with both versions of control groups.
        ! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified
        ln -s "$folder/docker.sock" /run/docker.sock
        export PODMAN_IGNORE_CGROUPSV1_WARNING=1
        start="podman --root $folder/data --cgroup-manager=cgroupfs system service --time 0 $socket"
        ;;
esac
exec 3<&0
# shellcheck disable=SC2086
chroot . $start </dev/null &
cat <&3 >/dev/null
