#!/usr/bin/env bash
# A Python with a real TensorRT 8.5.3 or 8.6.0, for tests without a GPU: its registry works, its builder does not start.
#
#   tensorrt8_python.sh 8.6.0 FOLDER      needs a Python 3.10 (PYTHON310) and a C compiler; downloads up to 0.8 GB
#   ACM_TENSORRT_PYTHON=FOLDER/python TENSORRT_ROOT=... python -m pytest tests/plugins/tensorrt tests/engine
#
# The packages link to cuBLAS and cuDNN, which they do not contain. Libraries without symbols stand in for them, so
# extensions must be loaded lazily.
set -euo pipefail
case ${1:-} in
  8.5.3) package=8.5.3.1 cuda=11 ;;
  8.6.0) package=8.6.0 cuda=12 ;;
  *) echo "usage: $0 8.5.3|8.6.0 FOLDER" >&2; exit 2 ;;
esac
folder=$(mkdir -p "${2:?usage: $0 VERSION FOLDER}" && cd "$2" && pwd)
"${PYTHON310:-python3.10}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "numpy<2" "onnx==1.18.*" click rich
"$folder/venv/bin/pip" install -q --no-deps "tensorrt==$package"
mkdir -p "$folder/lib" "$folder/site"
for library in cublas.so.$cuda cublasLt.so.$cuda cudnn.so.8; do
  echo | "${CC:-cc}" -shared -fPIC -x c "-Wl,-soname,lib$library" -o "$folder/lib/lib$library" -
done
echo 'import os, sys; sys.setdlopenflags(os.RTLD_LAZY | os.RTLD_GLOBAL)' >"$folder/site/sitecustomize.py"
cat >"$folder/python" <<'P2'
#!/usr/bin/env bash
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH=$here/site${PYTHONPATH:+:$PYTHONPATH}
export LD_LIBRARY_PATH=$here/venv/lib/python3.10/site-packages/tensorrt:$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
exec "$here/venv/bin/python" "$@"
P2
chmod +x "$folder/python"
"$folder/python" -c 'import tensorrt; print("TensorRT", tensorrt.__version__)'
