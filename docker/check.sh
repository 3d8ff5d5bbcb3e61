#!/usr/bin/env bash
# Builds the CPU image and runs it as docs/docker.md recommends: another user, a root that cannot be written, no
# capabilities. Asks its health check and the probe, stops it, and removes all that it made.
#   docker/check.sh
# Needs root, and of Debian: buildah podman debootstrap. No Docker, no registry: the base is a bare Debian with Python,
# under the name of the image that the Dockerfile asks for, and name spaces take the place of a container runtime.
# CHECK_BUILD_OPTIONS goes to `buildah build`, such as "--build-arg TORCH_INDEX_CPU=…"; CHECK_WORK names the work folder,
# which stays with CHECK_KEEP=1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=${CHECK_WORK:-$(mktemp -d /var/tmp/asr-image-XXXXXX)}
port=${CHECK_PORT:-8765}
mkdir -p "$work"
storage=(--root "$work/storage" --runroot "$work/run" --storage-driver overlay)
base=docker.io/library/$(sed -n 's/^ARG PYTHON_IMAGE=//p' docker/Dockerfile)
server=

finish() {
  if [[ -n $server ]]; then kill -KILL "$server" 2>/dev/null || true; fi
  podman "${storage[@]}" image umount --all >/dev/null 2>&1 || true
  if [[ -z ${CHECK_KEEP:-} ]]; then
    umount "$work/storage/overlay" 2>/dev/null || true
    rm -rf --one-file-system "$work"
  fi
}
trap finish EXIT

make_base() {
  local root=$work/root
  debootstrap --variant=minbase --include=ca-certificates,python3.11-venv,python3-pip,python3-setuptools \
    bookworm "$root" >"$work/debootstrap.log"
  ln -sf /usr/bin/python3.11 "$root/usr/local/bin/python"
  ln -sf /usr/bin/python3.11 "$root/usr/local/bin/python3"
  # Debian's mark that its Python belongs to apt; the image that this stands in for has none.
  rm -f "$root/usr/lib/python3.11/EXTERNALLY-MANAGED"
  tar -C "$root" --exclude='./proc/*' --exclude='./var/cache/apt/archives/*.deb' -cf - . |
    podman "${storage[@]}" import - "$base"
}

# Lists in the image's configuration, one value a line.
configured() {
  local list
  for list in "$@"; do
    podman "${storage[@]}" image inspect --format "{{range .Config.$list}}{{println .}}{{end}}" asr-service:cpu | grep .
  done
}

if ! podman "${storage[@]}" image exists "$base"; then make_base; fi
read -ra options <<<"${CHECK_BUILD_OPTIONS:-}"
buildah "${storage[@]}" build --isolation chroot --network host --pull-never --format docker "${options[@]}" \
  -f docker/Dockerfile --target cpu -t asr-service:cpu .
podman "${storage[@]}" images --format '{{.Repository}}:{{.Tag}} {{.Size}}' | grep -F asr-service:cpu

mapfile -t environment < <(configured Env)
mapfile -t command < <(configured Entrypoint Cmd)
mapfile -t health < <(configured Healthcheck.Test)
user=$(podman "${storage[@]}" image inspect --format '{{.Config.User}}' asr-service:cpu)
environment+=(HOME=/cache "ASR_PORT=$port")
confined=(setpriv "--reuid=${user%:*}" "--regid=${user#*:}" --clear-groups --no-new-privs --bounding-set=-all
  --inh-caps=-all env -i "${environment[@]}")

image=$(podman "${storage[@]}" image mount asr-service:cpu)
root=$work/rootfs cache=$work/cache
mkdir -p "$root" "$cache"
chown --reference="$image/cache" "$cache"
export image root cache
# shellcheck disable=SC2016
unshare --mount --pid --fork --kill-child sh -euc '
  mount --bind "$image" "$root"
  mount -o remount,bind,ro "$root"
  mount -t tmpfs -o size=1g,mode=1777 tmpfs "$root/tmp"
  mount --bind "$cache" "$root/cache"
  mount --rbind /dev "$root/dev"
  mount -t proc proc "$root/proc"
  exec chroot "$root" "$@"
' sh "${confined[@]}" "${command[@]}" 2>"$work/service.log" &
outer=$!
limit_s=${CHECK_START_LIMIT_S:-300}
if ! grep -qm1 '"event": *"ready"' < <(timeout "$limit_s" tail --pid=$outer -n +1 -f "$work/service.log"); then
  cat "$work/service.log"
  exit 1
fi
server=$(pgrep --parent $outer)

inside() { nsenter --target "$server" --mount --pid --root --wd=/ "${confined[@]}" "$@"; }
inside "${health[@]:1}"
inside asr-service probe --timeout 100 --max-seconds 60 "http://127.0.0.1:$port"
[[ $(inside id -u):$(inside id -g) == 10001:10001 ]]
if inside touch /opt/asr-service/x 2>/dev/null || inside touch /x 2>/dev/null; then exit 1; fi
grep -q '^CapEff:[[:space:]]*0*$' "/proc/$server/status"
grep -q '^NoNewPrivs:[[:space:]]*1$' "/proc/$server/status"
find "$cache" -type f -printf 'cache: %P %s\n'

started=$SECONDS
kill -TERM "$server"
status=0
wait $outer || status=$?
server=
echo "It stopped after $((SECONDS - started)) s with exit code $status."
[[ $status == 0 ]]
