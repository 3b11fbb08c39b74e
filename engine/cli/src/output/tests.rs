//! Values of `--output` and what they mean, or what is wrong with them.

use expect_test::{Expect, expect};

use super::*;

fn check(text: &str, expected: Expect) {
    let shown = match Output::parse(text) {
        Ok(Output::Image { image, store, push, how }) => {
            let store = if store { "" } else { " not stored" };
            let how = if how == Push::ByName { "" } else { " by digest" };
            format!("image push={push}{how}{store} {}", show(&image))
        }
        Ok(Output::Layout { image, format, dest }) => {
            format!("{format:?} {dest:?} {}", show(&image))
        }
        Ok(Output::Load(image)) => format!("load {}", show(&image)),
        Ok(other) => format!("{other:?}"),
        Err(error) => format!("error: {error}"),
    };
    expected.assert_eq(&shown);
}

fn show(image: &ImageOutput) -> String {
    let ImageOutput { export, tagged, insecure, times } = image;
    let options = &export.options;
    let types = if options.oci_media_types { "oci" } else { "docker" };
    let names: Vec<_> = export.names.iter().map(Reference::familiar).collect();
    let mut text = format!("{names:?} {:?} {types}", options.compression);
    for (is_so, what) in [
        (tagged.is_some(), "tagged"),
        (*insecure, "insecure"),
        (export.named_by_frontend, "named by frontend"),
        (export.name_canonical, "canonical"),
        (options.force_compression, "force"),
    ] {
        if is_so {
            text += &format!(", {what}");
        }
    }
    if let Some(dangling) = &export.dangling {
        text += &format!(", dangling {} {}", dangling.prefix.name(), dangling.only_unnamed);
    }
    if *times != Times::default() {
        text += &format!(", {times:?}");
    }
    if !options.annotations.is_empty() {
        text += &format!(", {:?}", options.annotations);
    }
    text
}

#[test]
fn outputs() {
    check(
        "out",
        expect![[
            r#"Local { dest: "out", others: Keep, platform_split: None, times: Times { epoch: None, rewrite: None } }"#
        ]],
    );
    check(
        "a=b",
        expect![[
            r#"Local { dest: "a=b", others: Keep, platform_split: None, times: Times { epoch: None, rewrite: None } }"#
        ]],
    );
    check(
        "-",
        expect![
            "Tar { dest: Stdout, platform_split: None, times: Times { epoch: None, rewrite: None } }"
        ],
    );
    check(
        "type=local,dest=out",
        expect![[
            r#"Local { dest: "out", others: Keep, platform_split: None, times: Times { epoch: None, rewrite: None } }"#
        ]],
    );
    check(
        "dest=out,type=local",
        expect![[
            r#"Local { dest: "out", others: Keep, platform_split: None, times: Times { epoch: None, rewrite: None } }"#
        ]],
    );
    check(
        "type=tar",
        expect![
            "Tar { dest: Stdout, platform_split: None, times: Times { epoch: None, rewrite: None } }"
        ],
    );
    check(
        "type=tar,dest=-",
        expect![
            "Tar { dest: Stdout, platform_split: None, times: Times { epoch: None, rewrite: None } }"
        ],
    );
    check(
        "type=tar,dest=a.tar",
        expect![[
            r#"Tar { dest: File("a.tar"), platform_split: None, times: Times { epoch: None, rewrite: None } }"#
        ]],
    );
    check("type=cacheonly", expect!["CacheOnly"]);
    check("type=image", expect!["image push=false [] Gzip { level: 6 } oci"]);
    check(
        "type=image,name=a/b,push=true",
        expect![[r#"image push=true ["a/b:latest"] Gzip { level: 6 } oci"#]],
    );
    check(
        "type=registry,name=a/b:1",
        expect![[r#"image push=true ["a/b:1"] Gzip { level: 6 } oci, tagged"#]],
    );
    check(
        r#"type=oci,"name=a:1,b:2","dest=with ""comma"", x.tar",compression=zstd,compression-level=9"#,
        expect![[
            r#"Oci Archive(File("with \"comma\", x.tar")) ["a:1", "b:2"] Zstd { level: 9 } oci, tagged"#
        ]],
    );
    check("type=docker,name=a", expect![[r#"load ["a:latest"] Gzip { level: 6 } oci"#]]);
    check(
        "type=docker,dest=a.tar",
        expect![[r#"Docker Archive(File("a.tar")) [] Gzip { level: 6 } oci"#]],
    );
    check("type=docker,dest=-", expect!["Docker Archive(Stdout) [] Gzip { level: 6 } oci"]);
    check(
        "type=docker,dest=layout,tar=false",
        expect![[r#"Docker Directory("layout") [] Gzip { level: 6 } oci"#]],
    );
    check(
        "type=oci,dest=layout,tar=false",
        expect![[r#"Oci Directory("layout") [] Gzip { level: 6 } oci"#]],
    );
    check(
        "type=local,dest=out,mode=delete,platform-split=false",
        expect![[
            r#"Local { dest: "out", others: Delete, platform_split: Some(false), times: Times { epoch: None, rewrite: None } }"#
        ]],
    );
    check(
        "type=tar,source-date-epoch=7,rewrite-timestamp=false",
        expect![
            "Tar { dest: Stdout, platform_split: None, times: Times { epoch: Some(7), rewrite: Some(false) } }"
        ],
    );
    check(
        "type=image,name=a,push=true,push-by-digest=true,store=false",
        expect![[r#"image push=true by digest not stored ["a:latest"] Gzip { level: 6 } oci"#]],
    );
    check(
        "type=image,name=*,name-canonical=true,dangling-name-prefix=d,danging-name-empty-only=true,unpack=true,registry.insecure=true,force-compression=true",
        expect![
            "image push=false [] Gzip { level: 6 } oci, insecure, named by frontend, canonical, force, dangling docker.io/library/d true"
        ],
    );
    check(
        "type=image,annotation.A.b=c,annotation-manifest[linux/amd64].d=e=f,annotation-index.g=",
        expect![[
            r#"image push=false [] Gzip { level: 6 } oci, Annotations({(Manifest, None, "A.b"): "c", (Manifest, Some(Platform { os: "linux", architecture: "amd64", variant: "", os_version: "", os_features: [] }), "d"): "e=f", (Index, None, "g"): ""})"#
        ]],
    );
    check(
        "type=oci,oci-mediatypes=false,compression=uncompressed,source-date-epoch=7",
        expect![
            "Oci Archive(Stdout) [] Uncompressed docker, Times { epoch: Some(7), rewrite: None }"
        ],
    );
}

#[test]
fn wrong_outputs() {
    check("", expect!["error: invalid --output ``: it is empty"]);
    check(
        "type=nosuch",
        expect![
            "error: invalid --output `type=nosuch`: unknown type `nosuch`, expected `image`, `registry`, `oci`, `docker`, `local`, `tar`, `wasm-artifact` or `cacheonly`"
        ],
    );
    check("a,b", expect!["error: invalid --output `a,b`: `a` is not KEY=VALUE"]);
    check("dest=x,name=y", expect!["error: invalid --output `dest=x,name=y`: `type` is missing"]);
    check(
        "type=local",
        expect!["error: invalid --output `type=local`: `dest` is missing: the directory"],
    );
    check(
        "type=image,dest=x",
        expect![
            "error: invalid --output `type=image,dest=x`: type `image` has no `dest`; type `oci` writes an archive"
        ],
    );
    check(
        "type=image,push=maybe",
        expect![
            "error: invalid --output `type=image,push=maybe`: `push=maybe`: expected `true` or `false`"
        ],
    );
    check(
        "type=image,name=Upper",
        expect![[
            r#"error: invalid --output `type=image,name=Upper`: invalid image reference "Upper": the repository name must be lower case: "library/Upper""#
        ]],
    );
    check(
        "type=oci,compression-level=10",
        expect![
            "error: invalid --output `type=oci,compression-level=10`: `compression-level=10` does not exist for gzip"
        ],
    );
    check(
        "type=oci,compression=lzma",
        expect![
            "error: invalid --output `type=oci,compression=lzma`: `compression=lzma`: expected `gzip`, `zstd` or `uncompressed`"
        ],
    );
    check(
        "type=image,name=a,pussh=true",
        expect![
            "error: invalid --output `type=image,name=a,pussh=true`: type `image` has no `pussh`; is `push` meant?"
        ],
    );
    check(
        "type=oci,tar=false",
        expect![
            "error: invalid --output `type=oci,tar=false`: `tar=false` needs a `dest`: the directory"
        ],
    );
    check(
        "type=oci,compression=estargz",
        expect![
            "error: invalid --output `type=oci,compression=estargz`: `compression=estargz` is not supported; any reader of it also takes `gzip`, without pulling lazily"
        ],
    );
    check(
        "type=docker,context=other",
        expect![
            "error: invalid --output `type=docker,context=other`: `context=other`: contexts of the docker program are not supported yet; name its daemon with DOCKER_HOST"
        ],
    );
    check(
        "type=local,dest=x,mode=mirror",
        expect![
            "error: invalid --output `type=local,dest=x,mode=mirror`: `mode=mirror`: expected `copy` or `delete`"
        ],
    );
    check(
        "type=image,annotation-layer.a=b",
        expect![
            "error: invalid --output `type=image,annotation-layer.a=b`: `annotation-layer`: expected `annotation`, `annotation-manifest`, `annotation-manifest-descriptor`, `annotation-index` or `annotation-index-descriptor`"
        ],
    );
    check(
        "type=image,oci-artifact=true",
        expect![
            "error: invalid --output `type=image,oci-artifact=true`: `oci-artifact=true` is not supported yet"
        ],
    );
    check(
        "type=image,rewrite-timestamp=yes",
        expect![
            "error: invalid --output `type=image,rewrite-timestamp=yes`: `rewrite-timestamp=yes`: expected `true` or `false`"
        ],
    );
    check(
        "type=tar,name=x",
        expect!["error: invalid --output `type=tar,name=x`: type `tar` has no `name`"],
    );
    check(
        r#"type=tar,"dest=x"#,
        expect![[r#"error: invalid --output `type=tar,"dest=x`: a quote is not closed"#]],
    );
    check(
        r#"type=tar,"dest=x"y"#,
        expect![[r#"error: invalid --output `type=tar,"dest=x"y`: text follows a closing quote"#]],
    );
    check(
        r#"type=tar,dest="x""#,
        expect![[
            r#"error: invalid --output `type=tar,dest="x"`: a quote stands inside a field; quote the whole field"#
        ]],
    );
}
