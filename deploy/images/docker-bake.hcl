# All images in one build, so that their shared layers are built once: `docker buildx bake -f deploy/images/docker-bake.hcl`.

variable "REGISTRY" {
  default = "ghcr.io/onceproof"
}

variable "TAG" {
  default = "dev"
}

target "image" {
  name       = service
  matrix     = { service = ["producer", "relay", "consumer", "provider", "operator"] }
  context    = "."
  dockerfile = "deploy/images/Dockerfile"
  args       = { SERVICE = service }
  tags       = ["${REGISTRY}/onceproof-${service}:${TAG}"]
}

group "default" {
  targets = ["image"]
}

# What a release pushes. Emulated where the builder has no machine of the kind.
target "release" {
  name      = "release-${service}"
  matrix    = { service = ["producer", "relay", "consumer", "provider", "operator"] }
  inherits  = [service]
  platforms = ["linux/amd64", "linux/arm64"]
  attest    = ["type=provenance,mode=max", "type=sbom"]
}
