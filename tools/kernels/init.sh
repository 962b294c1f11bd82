#!/system/bin/busybox sh
# The first process of the machine: make /system the root, mount what belongs there, run the parts,
# go down.
b=/system/bin/busybox
if [ -d /system/bin ]; then
    # a root that is a mount: the initramfs itself is none that pivot_root(2) would leave
    $b mkdir -p /system/proc /system/sys /system/dev /system/tmp /system/run /system/root /system/mnt
    $b mount --bind /system /system
    cd /system && $b mount --move . / && exec $b chroot . /bin/busybox sh /init.sh
fi
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=linux LANG=C.UTF-8
mount -t proc proc /proc
mount -o remount,bind,relatime / # as everywhere: the initramfs writes down each time that a link is followed
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o ptmxmode=666,gid=5 devpts /dev/pts
for link in fd: stdin:/0 stdout:/1 stderr:/2; do [ -e /dev/${link%:*} ] || ln -s /proc/self/fd${link#*:} /dev/${link%:*}; done
chmod 1777 /tmp
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mount -t cgroup2 cgroup /sys/fs/cgroup 2>/dev/null
busybox ip link set lo up
busybox stty -F "$REPORTS" raw -echo 2>/dev/null # of the kernel's command line
busybox hostname machine
modprobe -a loop fuse overlay ext4 2>/dev/null # others are asked for by the kernel
# where tests work: on a disk's file system, since one like the root's may be a user namespace's and has not all attributes
mkdir -p /var/tmp
busybox truncate -s 512M /disk && mkfs.ext4 -qF /disk && mount -o loop /disk /var/tmp && chmod 1777 /var/tmp
cd /proctor
"$(cat /python)" /proctor/tools/kernels/inside.py /run.json
busybox poweroff -f
