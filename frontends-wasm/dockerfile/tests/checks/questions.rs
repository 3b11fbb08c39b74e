//! The other questions: outline, targets, the ignore file, explanations.

use cofferdam_dockerfile::instruction::INSTRUCTIONS;
use expect_test::{Expect, expect};

use crate::Case;

const DOCKERFILE: &str = "\
# VERSION of the base image
ARG VERSION=3
ARG DIRECTORY

# base has the tools
FROM --platform=$BUILDPLATFORM alpine:$VERSION AS base
# TOKEN_FILE where the token is
ARG TOKEN_FILE=/run/$DIRECTORY/token
RUN --mount=type=secret,id=token,required --mount=type=ssh --mount=type=cache,target=/cache true

FROM scratch AS other
ARG NOT_NEEDED

FROM base
ARG DIRECTORY=/src
RUN --mount=type=secret,id=token --mount=type=secret,target=/x/second,required=false true
";

fn check(subrequest: &str, options: &[(&str, &str)], expected: Expect) {
    let case =
        Case { dockerfile: DOCKERFILE, subrequest, options, ignore: "# c\n*.o\n!keep.o\nout/\n" };
    let json: serde_json::Value = serde_json::from_str(&case.answer("result.json")).expect("JSON");
    assert!(json.is_object() || json.is_array());
    expected.assert_eq(&case.answer("result.txt"));
}

#[test]
fn outlines() {
    check(
        "frontend.outline",
        &[("build-arg:VERSION", "4")],
        expect![[r#"
        TARGET:      (default)

        BUILD ARG    VALUE         DESCRIPTION
        VERSION      4             of the base image
        DIRECTORY
        TOKEN_FILE   /run//token   where the token is

        SECRET   REQUIRED
        second
        token    true

        SSH       REQUIRED
        default

        CACHE MOUNT
        /cache
    "#]],
    );
    check(
        "frontend.outline",
        &[("target", "other")],
        expect![[r#"
        TARGET:      other

        BUILD ARG    VALUE   DESCRIPTION
        VERSION      3       of the base image
        DIRECTORY
        NOT_NEEDED
    "#]],
    );
    let case = Case { dockerfile: DOCKERFILE, subrequest: "frontend.outline", ..Case::default() };
    expect![[r#"
        {
          "args": [
            {
              "description": "of the base image",
              "location": {
                "ranges": [
                  {
                    "end": {
                      "line": 2
                    },
                    "start": {
                      "line": 2
                    }
                  }
                ],
                "sourceIndex": 0
              },
              "name": "VERSION",
              "value": "3"
            },
            {
              "location": {
                "ranges": [
                  {
                    "end": {
                      "line": 3
                    },
                    "start": {
                      "line": 3
                    }
                  }
                ],
                "sourceIndex": 0
              },
              "name": "DIRECTORY"
            },
            {
              "description": "where the token is",
              "location": {
                "ranges": [
                  {
                    "end": {
                      "line": 8
                    },
                    "start": {
                      "line": 8
                    }
                  }
                ],
                "sourceIndex": 0
              },
              "name": "TOKEN_FILE",
              "value": "/run//token"
            }
          ],
          "cache": [
            {
              "ID": "/cache",
              "location": {
                "ranges": [
                  {
                    "end": {
                      "line": 9
                    },
                    "start": {
                      "line": 9
                    }
                  }
                ],
                "sourceIndex": 0
              }
            }
          ],
          "secrets": [
            {
              "location": {
                "ranges": [
                  {
                    "end": {
                      "line": 16
                    },
                    "start": {
                      "line": 16
                    }
                  }
                ],
                "sourceIndex": 0
              },
              "name": "second"
            },
            {
              "location": {
                "ranges": [
                  {
                    "end": {
                      "line": 9
                    },
                    "start": {
                      "line": 9
                    }
                  }
                ],
                "sourceIndex": 0
              },
              "name": "token",
              "required": true
            }
          ],
          "sources": [
            {
              "data": "IyBWRVJTSU9OIG9mIHRoZSBiYXNlIGltYWdlCkFSRyBWRVJTSU9OPTMKQVJHIERJUkVDVE9SWQoKIyBiYXNlIGhhcyB0aGUgdG9vbHMKRlJPTSAtLXBsYXRmb3JtPSRCVUlMRFBMQVRGT1JNIGFscGluZTokVkVSU0lPTiBBUyBiYXNlCiMgVE9LRU5fRklMRSB3aGVyZSB0aGUgdG9rZW4gaXMKQVJHIFRPS0VOX0ZJTEU9L3J1bi8kRElSRUNUT1JZL3Rva2VuClJVTiAtLW1vdW50PXR5cGU9c2VjcmV0LGlkPXRva2VuLHJlcXVpcmVkIC0tbW91bnQ9dHlwZT1zc2ggLS1tb3VudD10eXBlPWNhY2hlLHRhcmdldD0vY2FjaGUgdHJ1ZQoKRlJPTSBzY3JhdGNoIEFTIG90aGVyCkFSRyBOT1RfTkVFREVECgpGUk9NIGJhc2UKQVJHIERJUkVDVE9SWT0vc3JjClJVTiAtLW1vdW50PXR5cGU9c2VjcmV0LGlkPXRva2VuIC0tbW91bnQ9dHlwZT1zZWNyZXQsdGFyZ2V0PS94L3NlY29uZCxyZXF1aXJlZD1mYWxzZSB0cnVlCg==",
              "filename": "Dockerfile",
              "language": "Dockerfile"
            }
          ],
          "ssh": [
            {
              "location": {
                "ranges": [
                  {
                    "end": {
                      "line": 9
                    },
                    "start": {
                      "line": 9
                    }
                  }
                ],
                "sourceIndex": 0
              },
              "name": "default"
            }
          ]
        }"#]].assert_eq(&case.answer("result.json"));
}

#[test]
fn targets() {
    check(
        "frontend.targets",
        &[],
        expect![[r#"
        TARGET      BASE              PLATFORM         DESCRIPTION
        base        alpine:$VERSION   $BUILDPLATFORM   has the tools
        other       scratch
        (default)   base
    "#]],
    );
    let case = Case { dockerfile: DOCKERFILE, subrequest: "frontend.targets", ..Case::default() };
    expect![[r#"
        {
          "sources": [
            {
              "data": "IyBWRVJTSU9OIG9mIHRoZSBiYXNlIGltYWdlCkFSRyBWRVJTSU9OPTMKQVJHIERJUkVDVE9SWQoKIyBiYXNlIGhhcyB0aGUgdG9vbHMKRlJPTSAtLXBsYXRmb3JtPSRCVUlMRFBMQVRGT1JNIGFscGluZTokVkVSU0lPTiBBUyBiYXNlCiMgVE9LRU5fRklMRSB3aGVyZSB0aGUgdG9rZW4gaXMKQVJHIFRPS0VOX0ZJTEU9L3J1bi8kRElSRUNUT1JZL3Rva2VuClJVTiAtLW1vdW50PXR5cGU9c2VjcmV0LGlkPXRva2VuLHJlcXVpcmVkIC0tbW91bnQ9dHlwZT1zc2ggLS1tb3VudD10eXBlPWNhY2hlLHRhcmdldD0vY2FjaGUgdHJ1ZQoKRlJPTSBzY3JhdGNoIEFTIG90aGVyCkFSRyBOT1RfTkVFREVECgpGUk9NIGJhc2UKQVJHIERJUkVDVE9SWT0vc3JjClJVTiAtLW1vdW50PXR5cGU9c2VjcmV0LGlkPXRva2VuIC0tbW91bnQ9dHlwZT1zZWNyZXQsdGFyZ2V0PS94L3NlY29uZCxyZXF1aXJlZD1mYWxzZSB0cnVlCg==",
              "filename": "Dockerfile",
              "language": "Dockerfile"
            }
          ],
          "targets": [
            {
              "base": "alpine:$VERSION",
              "description": "has the tools",
              "location": {
                "ranges": [
                  {
                    "end": {
                      "line": 6
                    },
                    "start": {
                      "line": 6
                    }
                  }
                ],
                "sourceIndex": 0
              },
              "name": "base",
              "platform": "$BUILDPLATFORM"
            },
            {
              "base": "scratch",
              "location": {
                "ranges": [
                  {
                    "end": {
                      "line": 11
                    },
                    "start": {
                      "line": 11
                    }
                  }
                ],
                "sourceIndex": 0
              },
              "name": "other"
            },
            {
              "base": "base",
              "default": true,
              "location": {
                "ranges": [
                  {
                    "end": {
                      "line": 14
                    },
                    "start": {
                      "line": 14
                    }
                  }
                ],
                "sourceIndex": 0
              }
            }
          ]
        }"#]].assert_eq(&case.answer("result.json"));
}

#[test]
fn lint_shows_places() {
    let case = Case {
        dockerfile: "FROM scratch\nWORKDIR a\nCOPY --chmod=9 a /\nCOPY --chwn=1 a /\n",
        subrequest: "frontend.lint",
        ..Case::default()
    };
    expect![[r#"
        Dockerfile: 0 warnings, and it cannot be built

        Dockerfile:4:6
        --------------------
           2 |     WORKDIR a
           3 |     COPY --chmod=9 a /
           4 | >>> COPY --chwn=1 a /
             |          ^^^^^^
        --------------------
        ERROR: Dockerfile:4: unknown flag `--chwn` of COPY
        hint: did you mean `--chown`?
    "#]]
    .assert_eq(&case.answer("result.txt"));
    assert_eq!(case.answer("result.statuscode"), "1");
    let case = Case { dockerfile: "FROM scratch\nWORKDIR a\n\tRUN\t--network=$X a\n", ..case };
    expect![[r#"
        Dockerfile: 2 warnings, and it cannot be built

        WARNING: WorkdirRelativePath - https://docs.docker.com/go/dockerfile/rule/workdir-relative-path/
        relative WORKDIR "a" depends on that of the base image
        Dockerfile:2:9
        --------------------
           1 |     FROM scratch
           2 | >>> WORKDIR a
             |             ^
           3 |     	RUN	--network=$X a
        --------------------

        WARNING: UndefinedVar - https://docs.docker.com/go/dockerfile/rule/undefined-var/
        usage of undefined variable '$X'
        Dockerfile:3:16
        --------------------
           1 |     FROM scratch
           2 |     WORKDIR a
           3 | >>> 	RUN	--network=$X a
             |     	   	          ^^
        --------------------

        Dockerfile:3:6
        --------------------
           1 |     FROM scratch
           2 |     WORKDIR a
           3 | >>> 	RUN	--network=$X a
             |     	   	^^^^^^^^^
        --------------------
        ERROR: Dockerfile:3: invalid --network ``: expected `default`, `none` or `host`
    "#]].assert_eq(&case.answer("result.txt"));
    expect![[r#"
        {
          "buildError": {
            "location": {
              "ranges": [
                {
                  "end": {
                    "character": 14,
                    "line": 3
                  },
                  "start": {
                    "character": 6,
                    "line": 3
                  }
                }
              ],
              "sourceIndex": 0
            },
            "message": "Dockerfile:3: invalid --network ``: expected `default`, `none` or `host`"
          },
          "sources": [
            {
              "data": "RlJPTSBzY3JhdGNoCldPUktESVIgYQoJUlVOCS0tbmV0d29yaz0kWCBhCg==",
              "filename": "Dockerfile",
              "language": "Dockerfile"
            }
          ],
          "warnings": [
            {
              "description": "the first WORKDIR of a stage is an absolute path",
              "detail": "relative WORKDIR \"a\" depends on that of the base image",
              "level": 1,
              "location": {
                "ranges": [
                  {
                    "end": {
                      "character": 9,
                      "line": 2
                    },
                    "start": {
                      "character": 9,
                      "line": 2
                    }
                  }
                ],
                "sourceIndex": 0
              },
              "ruleName": "WorkdirRelativePath",
              "url": "https://docs.docker.com/go/dockerfile/rule/workdir-relative-path/"
            },
            {
              "description": "no instruction uses a variable that is not set",
              "detail": "usage of undefined variable '$X'",
              "level": 1,
              "location": {
                "ranges": [
                  {
                    "end": {
                      "character": 17,
                      "line": 3
                    },
                    "start": {
                      "character": 16,
                      "line": 3
                    }
                  }
                ],
                "sourceIndex": 0
              },
              "ruleName": "UndefinedVar",
              "url": "https://docs.docker.com/go/dockerfile/rule/undefined-var/"
            }
          ]
        }"#]]
    .assert_eq(&case.answer("result.json"));
    let good = Case { dockerfile: "FROM scratch\n", ..case };
    expect![[r#"
        Dockerfile: nothing was found
    "#]]
    .assert_eq(&good.answer("result.txt"));
    assert_eq!(good.answer("result.statuscode"), "0");
}

#[test]
fn ignored_paths() {
    let ask = |path: &str, expected: Expect| {
        check("cofferdam.ignore", &[("path", path)], expected);
    };
    ask(
        "a.o",
        expect![[r#"
        `a.o` is left out of the build context
        .dockerignore:2: *.o
    "#]],
    );
    ask(
        "keep.o",
        expect![[r#"
        `keep.o` is in the build context
        .dockerignore:3: !keep.o
    "#]],
    );
    ask(
        "./out/deep/../b",
        expect![[r#"
        `out/b` is left out of the build context
        .dockerignore:4: out/
    "#]],
    );
    ask(
        "src/a.o",
        expect![[r#"
        `src/a.o` is in the build context
        no rule of .dockerignore matches it
    "#]],
    );
}

#[test]
fn explanations() {
    check(
        "cofferdam.explain",
        &[("name", "run")],
        expect![[r#"
            RUN: runs a command

                RUN [FLAGS] COMMAND
                RUN [FLAGS] ["PROGRAM", "ARGUMENT", ...]
                RUN [FLAGS] <<NAME

            Runs a command in the stage so far; what it leaves behind is a new layer.
            Without brackets the stage's shell runs it. A here-document is a script of
            several lines, for the shell or for what its first line #! names.

            FLAG
            --mount=VALUE      mounts a context, stage, cache, secret or agent (may be repeated)
            --network=VALUE    default, none or host
            --security=VALUE   sandbox or insecure
            --device=VALUE     gives the command a CDI device (may be repeated)

            OPTION OF --mount          TYPES
            type                       bind, cache, tmpfs, secret, ssh   what is mounted (default: bind)
            target, dst, destination   bind, cache, tmpfs, secret, ssh   where; relative paths are relative to the working directory
            source, src                bind, cache, secret               path inside the tree that is mounted; of a secret, its id
            from                       bind, cache                       stage, image or context that the tree is from (default: the build context)
            readwrite, rw              bind                              may be written to; what is written is thrown away
            readonly, ro               bind, cache                       cannot be written to
            id                         cache, secret, ssh                which cache (default: the target), secret or agent
            sharing                    cache                             with steps at the same time: shared (default), private or locked
            size                       tmpfs                             the most that it holds, like 64m
            env                        secret                            name of the variable that has the secret
            required                   secret, ssh                       it is an error if the client does not lend it
            mode                       cache, secret, ssh                permissions in octal digits
            uid                        cache, secret, ssh                number of the owner (default: 0)
            gid                        cache, secret, ssh                number of the group (default: 0)

            Variables are expanded in its flags; the shell that runs the text knows them, too.
            Here-documents may follow it.
        "#]],
    );
    check(
        "cofferdam.explain",
        &[("name", "UndefinedVar")],
        expect![[r#"
        UndefinedVar: no instruction uses a variable that is not set

        A variable that no ARG or ENV of the stage and no base image sets is empty. That
        is mostly a misspelling, or an ARG that stands in another stage.

        Instead of

            FROM alpine
            ARG DIRECTORY=/src
            COPY . $DIRECTROY

        write

            FROM alpine
            ARG DIRECTORY=/src
            COPY . $DIRECTORY

        more: https://docs.docker.com/go/dockerfile/rule/undefined-var/
    "#]],
    );
    check(
        "cofferdam.explain",
        &[("name", "arg")],
        expect![[r#"
        ARG: declares variables that a build can set

            ARG NAME[=DEFAULT] ...

        Declares variables for the rest of the stage; `--build-arg` gives them other
        values. Declared before the first FROM they exist in FROM only, and an ARG
        without a default makes them known in a stage. They are not in the environment
        of the container that is started later, but in the history of the image.

        Variables are expanded in its flags and arguments.
    "#]],
    );
    for spec in INSTRUCTIONS {
        let options = &[("name", spec.name)][..];
        let case = Case { subrequest: "cofferdam.explain", options, ..Case::default() };
        let text = case.answer("result.txt");
        assert!(spec.flags.iter().all(|flag| text.contains(flag.name)), "{}", spec.name);
    }
}

#[test]
fn descriptions_and_what_is_unknown() {
    check(
        "frontend.subrequests.describe",
        &[],
        expect![[r#"
        NAME                            VERSION   DESCRIPTION
        frontend.subrequests.describe   1.0.0     lists the subrequests
        frontend.outline                1.0.0     lists what a target takes: build arguments, secrets, ssh agents, caches
        frontend.targets                1.0.0     lists the stages that can be built
        frontend.lint                   1.0.0     checks the Dockerfile
        cofferdam.ignore                1.0.0     says which rule of the ignore file leaves a path out of the build context
        cofferdam.explain               1.0.0     explains an instruction or a check, or lists them
    "#]],
    );
    let (_, result) = Case { subrequest: "frontend.outlin", ..Case::default() }.run();
    let error = result.expect_err("no such subrequest");
    assert_eq!(error.message, "the subrequest `frontend.outlin` is not supported yet");
    assert_eq!(error.hints, ["did you mean `frontend.outline`?"]);
    let options = &[("name", "CPOY")][..];
    let (_, result) = Case { subrequest: "cofferdam.explain", options, ..Case::default() }.run();
    assert_eq!(result.expect_err("no such instruction").hints, ["did you mean `COPY`?"]);
}
