#!/usr/bin/env bash
# download-model.sh MODEL REVISION FOLDER: a model of the FLUX family from Hugging Face, in the layout that diffusers reads.
# The token is read from the build secret hf_token, or from HF_TOKEN; it is never an argument, so it does not appear in process lists.
set -euo pipefail

usage="usage: download-model.sh MODEL REVISION FOLDER"
model=${1:?$usage}
revision=${2:?$usage}
folder=${3:?$usage}
secret=${HF_TOKEN_FILE:-/run/secrets/hf_token}

if [[ -s $secret ]]; then
    HF_TOKEN=$(<"$secret")
    export HF_TOKEN
fi
if [[ -z ${HF_TOKEN:-} ]]; then
    echo "no Hugging Face token: a gated model such as FLUX.1-dev will be refused; give one as the build secret hf_token" >&2
fi

# Skip single-file checkpoints: they contain the same weights in another layout.
hf download "$model" --revision "$revision" --local-dir "$folder" \
    --exclude "flux1-*.safetensors" --exclude "ae.safetensors" --exclude "*.jpg" --exclude "*.png"
rm -rf "${folder:?}/.cache"

if [[ ! -s $folder/model_index.json ]]; then
    echo "$model has no model_index.json: it is not in the layout that ai-toolkit reads; choose another model" >&2
    exit 1
fi
chmod --recursive a+rX "$folder"
