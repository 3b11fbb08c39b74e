//! How the work grows with the input: four times as much of anything takes about four times as
//! long. What is compared is the processor's time of this thread for N and for 4 N, the least of
//! several runs; work that grows with the square would take sixteen times as long.

#[path = "support/paper_host.rs"]
mod host;

use cofferdam_dockerfile::DockerfileFrontend;
use cofferdam_sdk::{Frontend, Platform, Request};
use host::PaperHost;

/// The most that four times the input may take, as a multiple. Between 4 and 16, nearer to what
/// must not be: caches that become too small are no defect.
const MOST: u64 = 10;

/// Nanoseconds that this thread had a processor.
fn processor_time() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has it");
    text.split_whitespace().next().and_then(|field| field.parse().ok()).expect("a number")
}

/// Builds and checks a file, whatever comes of it, and gives the time that it took.
fn run(dockerfile: String, ignore: &str) -> u64 {
    let mut host = PaperHost::default();
    host.files.push(("dockerfile/Dockerfile".into(), dockerfile));
    host.files.push(("context/.dockerignore".into(), ignore.to_owned()));
    let before = processor_time();
    for subrequest in ["", "frontend.lint"] {
        let request = Request {
            options: Vec::new(),
            platforms: vec![Platform::new("linux", "amd64")],
            build_platform: Platform::new("linux", "amd64"),
            subrequest: subrequest.into(),
        };
        // What is wrong must be found out as fast as what is right.
        let _ = DockerfileFrontend::build(&host, &request);
    }
    processor_time() - before
}

fn check(count: usize, dockerfile: impl Fn(usize) -> String) {
    check_with_ignore(count, dockerfile, |_| String::new());
}

fn check_with_ignore(
    count: usize,
    dockerfile: impl Fn(usize) -> String,
    ignore: impl Fn(usize) -> String,
) {
    let measure = |count: usize| run(dockerfile(count), &ignore(count));
    let told = || {
        let start: String = dockerfile(2).chars().take(200).collect();
        format!("{count} and four times {count} in a file like\n{start}")
    };
    let (mut one, mut four) = (u64::MAX, u64::MAX);
    // The kernel counts in ticks of some milliseconds: what is below some of them is nothing.
    let is_linear = |one: u64, four: u64| four < MOST * one.max(10_000_000);
    for _ in 0..5 {
        one = one.min(measure(count));
        four = four.min(measure(4 * count));
        if is_linear(one, four) {
            return;
        }
    }
    panic!("{one} ns and {four} ns for {}", told());
}

/// A file of `count` times what `line` gives, behind a FROM.
fn repeated(line: impl Fn(usize) -> String) -> impl Fn(usize) -> String {
    move |count| {
        let lines = (0..count).map(|at| line(at) + "\n");
        std::iter::once("FROM alpine\n".to_owned()).chain(lines).collect()
    }
}

#[test]
fn a_line_of_64_mebibytes() {
    for first in ["RUN ", "# ", "ENV a=\"", "FROM ", "COPY ["] {
        check(1 << 20, |count| format!("FROM scratch\n{first}{}", "x".repeat(count)));
    }
    let _ = run(format!("FROM scratch\nRUN {}", "x".repeat(64 << 20)), "");
}

#[test]
fn a_line_of_many_continued_ones() {
    for part in ["a", "--mount=type=tmpfs,target=/x", "A=$B", "<<E", "'", "\"$(", "[,", "${x:-"] {
        for first in ["RUN ", "ENV A=", "COPY ", "LABEL ", "VOLUME ", "EXPOSE ", "ARG "] {
            let lines = |count| format!("{part} \\\n").repeat(count);
            check(2_000, |count| format!("FROM scratch\n{first}{}\n", lines(count)));
        }
    }
}

#[test]
fn empty_and_comment_lines() {
    check(10_000, |count| format!("FROM scratch\nRUN a \\\n{}b\n", "\n#c\n".repeat(count)));
    check(10_000, |count| format!("{}FROM scratch\n", "# check=skip=all\n".repeat(count)));
    check(10_000, |count| format!("FROM scratch\nRUN <<E\n{}E\n", "# x\n".repeat(count)));
}

#[test]
fn many_instructions() {
    for line in [
        "ENV V{}=1",
        "ENV V=$V{}",
        "ARG V{}=$W",
        "LABEL l{}=1",
        "EXPOSE 80/{}",
        "VOLUME /v{}",
        "COPY a{} /",
        "WORKDIR d",
        "ONBUILD RUN {}",
        "CMD {}",
        "SHELL [\"a\"]",
        "USER u{}",
        "HEALTHCHECK CMD {}",
        "MAINTAINER x",
        "RUN {}",
    ] {
        check(2_000, repeated(|at| line.replace("{}", &at.to_string())));
    }
}

#[test]
fn many_stages() {
    for line in [
        "FROM scratch AS s{}",
        "FROM alpine AS s{}\nCOPY --from={} a /",
        "FROM s AS s\nENV A{}=1\nUSER x",
        "FROM scratch AS s{}\nCOPY --from=s{} a /",
        "FROM scratch AS s{}\nRUN --mount=from=nosuch{} a",
        "FROM image{} AS s{}",
    ] {
        let stages = repeated(|at| line.replace("{}", &at.to_string()));
        check(500, |count| stages(count).replacen("FROM alpine", "FROM alpine AS s", 1));
    }
}

#[test]
fn many_mistakes() {
    for line in [
        "RNU {}",
        "RUN --netwrk={} x",
        "COPY {}",
        "FROM scratch AS s{}\nCOPY --from=s{}x a /",
        "FROM $UNDECLARED{}",
        "ENV A=${A:?{}}",
        "COPY --chmod=9{} a /",
        "RUN <<E{}",
    ] {
        check(1_000, repeated(|at| line.replace("{}", &at.to_string())));
    }
}

#[test]
fn nesting() {
    for (open, close) in [("${a:-", "}"), ("\"", "\""), ("'", "'"), ("${a#", "}"), ("${a/b/", "}")]
    {
        check(20_000, |count| {
            format!(
                "FROM scratch\nENV A={}\\\n{}\n",
                open.repeat(count / 10),
                close.repeat(count / 10)
            )
        });
        check(1_000, repeated(|at| format!("ENV A{}={open}x{close}", at % 7)));
    }
    check(500, repeated(|_| format!("RUN a{}", "${a:-".repeat(50) + &"}".repeat(50))));
}

#[test]
fn variables_that_double_each_other() {
    check(50, |count| {
        let arguments = (0..count).map(|at| format!("ARG A{}=$A{at}$A{at}\n", at + 1));
        let arguments: String = arguments.collect();
        format!(
            "ARG A0=xx\n{arguments}FROM alpine$A{count}\nENV B=xx\n{}",
            "ENV B=$B$B\n".repeat(count)
        )
    });
    // A long value, and much that is done with it.
    let long = "y".repeat(60_000);
    for line in ["LABEL l{}=$B$B$B", "ENV C{}=${B//y/yy}", "ENV C=${B%%*x*y*z}", "RUN $B{}"] {
        check(500, |count| {
            let lines = (0..count).map(|at| line.replace("{}", &at.to_string()) + "\n");
            format!("FROM scratch\nENV B={long}\n{}", lines.collect::<String>())
        });
    }
}

#[test]
fn ignore_files() {
    let patterns = |pattern: &'static str| {
        move |count: usize| (0..count).map(|at| format!("{pattern}{at}\n")).collect::<String>()
    };
    for pattern in ["a", "**/*a*b*", "!", "[a-z]?", "#", "\\"] {
        check_with_ignore(5_000, |_| "FROM scratch\nCOPY a/b/c/d/e /\n".into(), patterns(pattern));
    }
    let copies = repeated(|at| format!("COPY a{at} /"));
    check_with_ignore(500, copies, patterns("*b"));
}

/// So much of everything is read in one go, too.
#[test]
fn a_hundred_thousand_instructions_in_ten_thousand_stages() {
    let stage = |at: usize| {
        let base = if at.is_multiple_of(2) { "scratch".to_owned() } else { format!("s{}", at - 1) };
        let from = format!("FROM {base} AS s{at}\nENV A{at}=$A{at}x B=1\nWORKDIR /w\n");
        let copy = match at {
            0 => "COPY a /\n".to_owned(),
            at => format!("COPY --from=s{} a /\n", at - 1),
        };
        format!("{from}{copy}USER u\nLABEL l=$B\nEXPOSE 80\nVOLUME /v\nARG x=1\nCMD [\"c\"]\n")
    };
    let _ = run((0..10_000).map(stage).collect(), "*.o\n");
}
