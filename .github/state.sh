#!/usr/bin/env bash
# Keeps the guard's state in a branch of the repository that the workflow runs in.
#
#   state.sh fetch STATE BRANCH   copies what the branch holds into the folder STATE; no branch yet is an empty state
#   state.sh keep STATE BRANCH    adds what STATE holds to the branch, and makes the branch where there is none
#
# Files of the state are only ever added, each under a name of its own. So two nights that push at once are merged by
# copying: the one that comes second takes the branch anew and adds its own.
set -euo pipefail

readonly verb="$1" state="$2" branch="$3"
readonly url="${GITHUB_SERVER_URL:?}/${GITHUB_REPOSITORY:?}.git"
readonly attempts=5
copy=$(mktemp -d)
readonly copy
trap 'rm -rf -- "$copy"' EXIT

export GIT_TERMINAL_PROMPT=0
if [ -n "${TOKEN:-}" ]; then
  # By the environment: other users of the machine can read a command line.
  login=$(printf 'x-access-token:%s' "$TOKEN" | base64 --wrap=0)
  echo "::add-mask::$login"
  export GIT_CONFIG_COUNT=1
  export GIT_CONFIG_KEY_0="http.$GITHUB_SERVER_URL/.extraheader"
  export GIT_CONFIG_VALUE_0="AUTHORIZATION: basic $login"
fi

# Takes the branch into $copy, empty where there is none. A server that does not answer is no empty state.
take() {
  rm -rf -- "$copy"
  git init --quiet --initial-branch "$branch" "$copy"
  local code=0
  git ls-remote --exit-code "$url" "refs/heads/$branch" > /dev/null || code=$?
  case "$code" in
    0)
      git -C "$copy" fetch --quiet --depth 1 "$url" "refs/heads/$branch"
      git -C "$copy" reset --quiet --hard FETCH_HEAD
      ;;
    2) ;; # ls-remote's word for "there is no such branch"
    *)
      echo "::error title=perfguard::The state cannot be fetched from $url." >&2
      exit 1
      ;;
  esac
}

# Copies the files of a folder of the state that another one lacks; what is being written (a dot in front) is left.
copy_new() {
  local path
  mkdir -p -- "$2"
  for path in "$1"/*; do
    if [ -f "$path" ] && [ ! -e "$2/$(basename "$path")" ]; then cp -- "$path" "$2/"; fi
  done
}

add() {
  local folder path
  for folder in nights acceptances quarantine; do
    copy_new "$state/$folder" "$copy/$folder"
  done
  # What was damaged and set aside must not come back with the next night.
  for path in "$copy/nights/"* "$copy/acceptances/"*; do
    folder=$(basename "$(dirname "$path")")
    if [ ! -e "$state/$folder/$(basename "$path")" ] && compgen -G "$state/quarantine/$(basename "$path").*" > /dev/null; then
      rm -f -- "$path"
    fi
  done
}

# Its caller asks whether it worked, and so turns `set -e` off in here.
push() {
  git -C "$copy" add --all || return 1
  if git -C "$copy" diff --cached --quiet; then
    echo "The branch holds everything already."
    return 0
  fi
  git -C "$copy" -c user.name="github-actions[bot]" -c commit.gpgsign=false \
    -c user.email="41898282+github-actions[bot]@users.noreply.github.com" \
    commit --quiet --message "Keep the nights up to $(date --utc +%Y-%m-%dT%H:%MZ)" || return 1
  git -C "$copy" push --quiet "$url" "HEAD:refs/heads/$branch"
}

case "$verb" in
  fetch)
    take
    for folder in nights acceptances quarantine; do
      copy_new "$copy/$folder" "$state/$folder"
    done
    ;;
  keep)
    for attempt in $(seq "$attempts"); do
      take
      add
      if push; then exit 0; fi
      echo "Another night was faster, or the push failed (attempt $attempt of $attempts)."
      sleep "$((RANDOM % 3 + 1))"
    done
    echo "::error title=perfguard::The state could not be pushed to $branch of $url." >&2
    exit 1
    ;;
  *)
    echo "state.sh: there is no verb $verb" >&2
    exit 2
    ;;
esac
