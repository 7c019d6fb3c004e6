#!/bin/sh
# An ARM machine to run a device bundle in, made in a folder of its own: `sh tests/arm_sysroot.sh DIR [PYTHON]`.
# Debian's arm64 Python and the aarch64 wheels of numpy and onnxruntime; nothing on this machine is changed, and no root is
# needed. Needs apt-get, dpkg-deb and pip with their indexes. Run in it:
#   qemu-aarch64-static -cpu cortex-a72 -L DIR/root -E PYTHONHOME=DIR/root/usr -E PYTHONPATH=DIR/site DIR/root/usr/bin/python3 run.py test
set -eu
dir=$(realpath -m "$1")
python=${2:-python3}
mkdir -p "$dir/state/lists/partial" "$dir/cache/archives/partial" "$dir/root" "$dir/wheels" "$dir/site"
: > "$dir/status"
apt() {
    apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$dir/state" \
        -o Dir::State::status="$dir/status" -o Dir::Cache="$dir/cache" -o APT::Install-Recommends=false \
        -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=1 "$@"
}
apt update
apt -y --download-only install python3-minimal libpython3-stdlib libstdc++6 libgomp1
for package in "$dir"/cache/archives/*.deb; do dpkg-deb -x "$package" "$dir/root"; done
version=$(ls "$dir/root/usr/bin" | sed -n 's/^python\(3\.[0-9]*\)$/\1/p')
"$python" -m pip download --quiet --dest "$dir/wheels" --only-binary :all: --python-version "$version" \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 numpy onnxruntime
for wheel in "$dir"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$dir/site"; done
# ONNX Runtime asks these which processor it is on (a Cortex-A72, as in a Raspberry Pi 4); qemu answers from the sysroot.
cpus="$dir/root/sys/devices/system/cpu"
mkdir -p "$dir/root/proc" "$cpus"
printf '%s\n' 'processor	: 0' 'Features	: fp asimd evtstrm crc32 cpuid' 'CPU implementer	: 0x41' \
    'CPU architecture: 8' 'CPU variant	: 0x0' 'CPU part	: 0xd08' 'CPU revision	: 3' > "$dir/root/proc/cpuinfo"
for list in possible present online; do echo 0 > "$cpus/$list"; done
