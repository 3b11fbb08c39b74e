"""Checks an OCI layout against the specification's own JSON schemas: oci-schema.py DIRECTORY

The schemas are those of Debian's package golang-github-opencontainers-image-spec-dev. Prints how
many documents of each kind were right; the first wrong one ends it.
"""

import collections
import json
import os
import sys

import jsonschema

SCHEMAS = "/usr/share/gocode/src/github.com/opencontainers/image-spec/schema"
# Other media types (layers, the configs of artifacts) are none that the specification has a schema of.
KINDS = {
    "application/vnd.oci.image.index.v1+json": "image-index-schema.json",
    "application/vnd.oci.image.manifest.v1+json": "image-manifest-schema.json",
    "application/vnd.oci.image.config.v1+json": "config-schema.json",
}


def schema(name):
    with open(os.path.join(SCHEMAS, os.path.basename(name)), encoding="utf-8") as file:
        return json.load(file)


def check(what, value, name):
    root = schema(name)
    # The schemas name each other by addresses at which nothing is.
    resolver = jsonschema.RefResolver.from_schema(root, handlers={"https": schema})
    formats = jsonschema.FormatChecker()
    validator = jsonschema.Draft4Validator(root, resolver=resolver, format_checker=formats)
    for error in validator.iter_errors(value):
        sys.exit(f"{what} is not as {name} says: {list(error.absolute_path)}: {error.message}")


def main(layout):
    def read(*path):
        with open(os.path.join(layout, *path), "rb") as file:
            return json.load(file)

    right = collections.Counter()
    check("oci-layout", read("oci-layout"), "image-layout-schema.json")
    index = read("index.json")
    check("index.json", index, KINDS["application/vnd.oci.image.index.v1+json"])
    seen, todo = set(), list(index["manifests"])
    while todo:
        descriptor = todo.pop()
        check("a descriptor", descriptor, "content-descriptor.json")
        name, digest = KINDS.get(descriptor["mediaType"]), descriptor["digest"]
        if name is None or digest in seen:
            continue
        seen.add(digest)
        value = read("blobs", *digest.split(":"))
        check(digest, value, name)
        right[name.split("-schema")[0]] += 1
        todo += value.get("manifests", []) + value.get("layers", [])
        if name == "image-manifest-schema.json":
            todo.append(value["config"])
    print(" ".join(f"{count} {kind}" for kind, count in sorted(right.items())))


main(*sys.argv[1:])
