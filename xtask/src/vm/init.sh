#!/bin/busybox sh
# The first program of a virtual machine: mounts the host's root directory read-only with a layer
# in memory above it, runs /vm/run in there and powers off.
#
# Serial ports: ttyS0 the console, ttyS1 the command's output, ttyS2 its exit code alone.
/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc /sys /dev /lower /rw /new
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec </dev/null >/dev/ttyS0 2>&1
die() {
    echo "VM-FAILED: $*"
    dmesg | tail -15
    poweroff -f
}
for module in $(cat /vm/modules/order); do
    insmod "/vm/modules/$module" || die "insmod $module"
done
mount -t virtiofs -o ro root /lower || die "mount the host's root directory"
mount -t tmpfs -o size=90% tmpfs /rw
mkdir /rw/upper /rw/work
mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work overlay /new || die "mount overlay"
cd /new || die "no root directory"
mkdir -p proc sys dev tmp run
mount -t proc proc proc
mount -t sysfs sys sys
mount -t devtmpfs dev dev
mkdir -p dev/pts dev/shm
mount -t devpts devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
ln -sf /proc/self/fd dev/fd
ln -sf fd/0 dev/stdin
ln -sf fd/1 dev/stdout
ln -sf fd/2 dev/stderr
mount -t tmpfs -o mode=1777 tmp tmp
mount -t tmpfs -o mode=755 run run
# A checkout or a target directory below these is hidden by them now.
number=0
while IFS= read -r place; do
    number=$((number + 1))
    layer=/rw/$number
    case $place in
    /tmp/* | /run/*)
        mkdir -p ".$place" $layer.upper $layer.work
        mount -t overlay -o "lowerdir=/lower$place,upperdir=$layer.upper,workdir=$layer.work" overlay ".$place" ||
            die "mount $place"
        ;;
    esac
done </vm/places
mount -t tracefs tracefs sys/kernel/tracing
mount -t debugfs debugfs sys/kernel/debug
mount -t bpf bpf sys/fs/bpf
mount -t cgroup2 cgroup2 sys/fs/cgroup
mkdir -p run/vm
cp /vm/run run/vm/run
ip link set lo up
hostname vm
# Raw: the bytes arrive as they were written.
stty raw </dev/ttyS1
stty raw </dev/ttyS2
chroot /new /bin/sh /run/vm/run </dev/null >/dev/ttyS1 2>&1
code=$?
echo $code >/dev/ttyS2
sync
poweroff -f
