# Builds all images in one command: `docker/build.sh`, or by hand `docker buildx bake --file docker-bake.hcl`.
# base and model are stages of the other images: built and cached, but not pushed by themselves.

variable "REPOSITORY" { default = "flux-training" }
# The suffix of the tags that distinguishes images with several models in one repository, such as "-Qwen--Qwen-Image".
variable "TAG_SUFFIX" { default = "" }
variable "MODEL_ID" { default = "black-forest-labs/FLUX.1-dev" }
variable "MODEL_REVISION" { default = "main" }
variable "KELPIE_SHA256" { default = "" }
variable "VSCODE_VERSION" { default = "latest" }
variable "VSCODE_SHA256" { default = "" }

group "default" {
  targets = ["worker", "dev"]
}

target "base" {
  dockerfile = "Dockerfile.base"
  platforms  = ["linux/amd64"]
}

target "model" {
  dockerfile = "Dockerfile.model"
  platforms  = ["linux/amd64"]
  contexts   = { base = "target:base" }
  args = {
    BASE_IMAGE     = "base"
    MODEL_ID       = MODEL_ID
    MODEL_REVISION = MODEL_REVISION
  }
  secret = ["id=hf_token,env=HF_TOKEN"]
}

target "worker" {
  dockerfile = "Dockerfile"
  platforms  = ["linux/amd64"]
  contexts   = { model = "target:model" }
  args = {
    MODEL_IMAGE   = "model"
    KELPIE_SHA256 = KELPIE_SHA256
  }
  tags = ["${REPOSITORY}:worker${TAG_SUFFIX}"]
}

target "dev" {
  dockerfile = "Dockerfile.dev"
  platforms  = ["linux/amd64"]
  contexts   = { model = "target:model" }
  args = {
    MODEL_IMAGE    = "model"
    VSCODE_VERSION = VSCODE_VERSION
    VSCODE_SHA256  = VSCODE_SHA256
  }
  tags = ["${REPOSITORY}:dev${TAG_SUFFIX}"]
}
