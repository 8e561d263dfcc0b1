#!/bin/busybox sh
# The first process of a guest. `cgroups` and `rows` are of the kernel's command line, which init gets as its environment.
export PATH=/nodetls:/bin:/sbin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t bpf -o mode=700 bpf /sys/fs/bpf
mkdir -p /run/netns /run/lock
ip link set lo up

if [ "$cgroups" = hybrid ]; then
    # As systemd's hybrid mode has it.
    mount -t tmpfs tmpfs /sys/fs/cgroup
    for hierarchy in unified cpu,cpuacct net_cls,net_prio; do mkdir "/sys/fs/cgroup/$hierarchy"; done
    mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
    for hierarchy in cpu,cpuacct net_cls,net_prio; do
        mount -t cgroup -o "$hierarchy" cgroup "/sys/fs/cgroup/$hierarchy" || echo "guest: no v1 hierarchy $hierarchy"
    done
else
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi

for module in $(cat /modules/order); do
    insmod "/modules/$module.ko" || echo "guest: module $module is not loaded"
done

dmesg -c > /dev/null
echo 1 > /proc/sys/kernel/printk
echo "guest: Linux $(uname -r), cgroups $cgroups"
for row in $(cat /rows); do
    timeout 120 /nodetls/deps/hooks --exact "$row" > /tmp/log 2>&1
    status=$?
    # A filter that leaves none is no success.
    if [ $status = 0 ] && grep "^outcome $row " /tmp/log; then continue; fi
    echo "outcome $row failed: status $status"
    sed 's/^/guest: /' /tmp/log
done

# A kernel that complains of what we did to it.
if dmesg | grep -E 'WARNING:|BUG:|Oops|Call Trace|hung' > /tmp/complaints; then
    echo "outcome kernel::quiet failed: $(head -1 /tmp/complaints)"
    dmesg | sed 's/^/guest: /'
else
    echo "outcome kernel::quiet passed"
fi
echo "guest: end"
poweroff -f
