# overlay.sh BASE NEW REQUIREMENTS: a virtual environment NEW that has what BASE has, and REQUIREMENTS in their place.
set -e
"$1/bin/python" -m venv "$2"
site=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
own=$("$2/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo "import site; site.addsitedir('$site')" > "$own/base.pth"
"$2/bin/python" -m pip install -qq --disable-pip-version-check --no-input -r "$3"
