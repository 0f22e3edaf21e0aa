# The browser of tests/browser. Sourced by ops/test; needs nothing but a POSIX shell.

# browser_wanted [ARGUMENT...]: whether pytest, called so, comes to tests/browser: it is named, or nothing is.
browser_wanted() {
    named=
    for argument in "$@"; do
        case "${argument%%::*}" in
            . | ./ | tests | tests/ | tests/browser | tests/browser/* | "$PWD" | "$PWD/tests" | "$PWD/tests/browser"*) return 0 ;;
            -*) ;;
            *) if [ -e "${argument%%::*}" ]; then named=yes; fi ;;
        esac
    done
    [ -z "$named" ]
}

# ensure_browser: installs Debian's Chromium and its driver where they are missing, apt is there and we are root.
# Never fails: without a browser its tests are skipped, and say so.
ensure_browser() {
    if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then return 0; fi
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then return 0; fi
    echo "Installing chromium and chromium-driver for the browser tests." >&2
    # Without a font there is no text, and nothing to be seen or measured.
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        chromium chromium-driver fonts-dejavu-core; } >/dev/null 2>&1 </dev/null ||
        echo "They could not be installed; the browser tests will be skipped." >&2
}
