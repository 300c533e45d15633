#!/usr/bin/env bash
# Runs one program on every worker of a Cloud TPU slice. Not yet run on one: see docs/tpu.md.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: launch/tpu_slice.sh --tpu=NAME --zone=ZONE [--project=PROJECT] [--skip_install] -- PROGRAM ARGS...

Copies this checkout (what git tracks) to every worker, installs '.[tpu]' there in ~/swirl-venv and runs
PROGRAM on all workers at once, with that environment's python first in the PATH and
SWIRL_COORDINATOR=auto: jax.distributed finds its peers from the slice's own metadata.

  --tpu           the TPU VM's name, as `gcloud compute tpus tpu-vm list` prints it
  --zone          its zone
  --project       its project; default: gcloud's own
  --skip_install  the workers have this checkout and its packages already

  launch/tpu_slice.sh --tpu=my-slice --zone=us-east5-a -- \
    python -m swirl_jax.main --config=configs/minigrid.py --workdir=/mnt/shared/runs/minigrid \
    --config.mesh.data=16

The product of the mesh's axes is the number of the slice's chips, here 16.
USAGE
}

fail() {
  echo "launch/tpu_slice.sh: $1" >&2
  exit 2
}

tpu="" zone="" project="" install=1
while [[ $# -gt 0 ]]; do
  case "$1" in
    --tpu=*) tpu="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --project=*) project="${1#*=}" ;;
    --skip_install) install=0 ;;
    -h | --help) usage; exit 0 ;;
    --) shift; break ;;
    *) fail "unknown argument '$1'; --help lists what is known" ;;
  esac
  shift
done
[[ -n "$tpu" ]] || fail "--tpu=NAME is needed; --help says more"
[[ -n "$zone" ]] || fail "--zone=ZONE is needed; --help says more"
[[ $# -gt 0 ]] || fail "no program: put it after --"
command -v gcloud > /dev/null || fail "gcloud is not in the PATH: install the Google Cloud CLI"

cd "$(dirname "${BASH_SOURCE[0]}")/.."
where=("--zone=$zone")
[[ -z "$project" ]] || where+=("--project=$project")

state="$(gcloud compute tpus tpu-vm describe "$tpu" "${where[@]}" --format='value(state)')" \
  || fail "no TPU VM '$tpu' in zone '$zone' that this account may see"
[[ "$state" == READY ]] || fail "TPU VM '$tpu' is $state; it must be READY"

on_all() {
  gcloud compute tpus tpu-vm ssh "$tpu" "${where[@]}" --worker=all --command="$1"
}

if [[ "$install" == 1 ]]; then
  git rev-parse --verify --quiet HEAD > /dev/null || fail "this checkout has no commit to send"
  [[ -z "$(git status --porcelain --untracked-files=no)" ]] \
    || echo "warning: uncommitted changes are not sent; the workers get HEAD" >&2
  archive="$(mktemp "${TMPDIR:-/tmp}/swirl-source.XXXXXX")"
  trap 'rm -f "$archive"' EXIT
  git archive --format=tar.gz --output="$archive" HEAD
  gcloud compute tpus tpu-vm scp "$archive" "$tpu:swirl-source.tar.gz" "${where[@]}" --worker=all
  on_all "set -e
    mkdir -p ~/swirl_jax
    rm -rf ~/swirl_jax/swirl_jax ~/swirl_jax/configs ~/swirl_jax/launch
    tar -xzf ~/swirl-source.tar.gz -C ~/swirl_jax
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
      || { echo 'error: Python 3.11 or newer is needed on the TPU VM' >&2; exit 2; }
    [ -x ~/swirl-venv/bin/pip ] || python3 -m venv --clear ~/swirl-venv
    cd ~/swirl_jax && ~/swirl-venv/bin/pip install --quiet -e '.[tpu]'"
fi

printf -v program '%q ' "$@"
on_all "cd ~/swirl_jax && PATH=\$HOME/swirl-venv/bin:\$PATH SWIRL_COORDINATOR=auto $program"
