# What the demo's guest runs in its userspace: shows that it is a machine of its own.
show() {
	echo "guest# $*"
	"$@" 2>&1
}
show uname -srvm
show nproc
show free -m
show df -h /
show sh -c 'for device in /sys/bus/virtio/devices/*; do echo "${device##*/} $(readlink -f "$device" | cut -d/ -f 4-5)"; done'
show sh -c 'dd if=/dev/zero of=/file bs=1M count=8 conv=fsync 2>&1 && sha256sum /file'
echo "Hello from userspace in a Mayfly microVM."
