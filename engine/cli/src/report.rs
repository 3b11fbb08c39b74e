//! What the user is told at the end: errors with the lines of the Dockerfile, the end of the
//! log and hints; warnings; what was made. Everything can be read without colour.

use std::error::Error as _;
use std::fmt::Write as _;

use cofferdam_build::{Excerpt, Exported, Failure, Loaded, Response, Warning};
use cofferdam_registry::Descriptor;
use unicode_width::UnicodeWidthChar as _;

use crate::error::Error;
use crate::progress::text::{Colours, clean, clean_lines, duration, fit, one_line, size};
use crate::progress::{Summary, Tail, Tails};

/// Lines of context on each side of the lines that an excerpt is about.
const CONTEXT: usize = 2;
/// The most lines that an excerpt marks.
const MAX_MARKED: usize = 20;
/// The most characters of a line that are shown.
const MAX_COLUMNS: usize = 500;

/// How the report looks.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Whether the words that say what a line is are coloured.
    pub colours: Colours,
}

impl Style {
    fn label(self, label: &str, code: &str) -> String {
        match self.colours {
            Colours::Keep => format!("\x1b[{code}m{label}:\x1b[0m"),
            Colours::Remove => format!("{label}:"),
        }
    }

    /// A line that says why nothing came of it.
    pub fn error(self, message: &str) -> String {
        format!("{} {}\n", self.label("error", "1;31"), clean_lines(message))
    }

    /// A line that says what to watch out for.
    pub fn warning(self, message: &str) -> String {
        format!("{} {}\n", self.label("warning", "1;33"), clean_lines(message))
    }

    /// Lines that say what to try next.
    pub fn hints(self, hints: &[String]) -> String {
        let hint = |hint: &String| format!("{} {}\n", self.label("hint", "36"), clean_lines(hint));
        hints.iter().map(hint).collect()
    }
}

/// An error outside the engine's builds.
pub fn error(error: &Error, style: Style) -> String {
    style.error(&error.to_string()) + &style.hints(&error.hints())
}

/// A build that failed.
pub fn failure(failure: &Failure, tails: &Tails, style: Style) -> String {
    let mut text = String::new();
    if let Some(step) = &failure.step {
        let Tail { lines, cut } = tails.of_failed(step);
        if !lines.is_empty() {
            let _ = writeln!(text, "------\n > {}:", one_line(step));
            for line in lines {
                let _ = writeln!(text, "{}", line.trim_end());
            }
            if let (true, Some(log)) = (cut, &failure.log) {
                let _ = writeln!(text, "full log: {}", log.display());
            }
            text.push_str("------\n");
        }
    }
    for excerpt in &failure.excerpts {
        text.push_str(&show(excerpt));
    }
    let message = message(failure);
    text += &match &failure.step {
        Some(step) if !step.is_empty() => {
            style.error(&format!("step `{}`: {message}", one_line(step)))
        }
        _ => style.error(&message),
    };
    text += &style.hints(&failure.hints);
    for other in &failure.others {
        other.excerpts.iter().for_each(|excerpt| text.push_str(&show(excerpt)));
        text += &style.error(&other.message);
        text += &style.hints(&other.hints);
    }
    text
}

/// A warning of the frontend's.
pub fn warning(warning: &Warning, excerpts: &[Excerpt], style: Style) -> String {
    let mut text = style.warning(&warning.short);
    for line in &warning.detail {
        let _ = writeln!(text, "  {}", clean(line, Colours::Remove));
    }
    if !warning.url.is_empty() {
        let _ = writeln!(text, "  more: {}", clean(&warning.url, Colours::Remove));
    }
    excerpts.iter().for_each(|excerpt| text.push_str(&show(excerpt)));
    text
}

/// The build in numbers, and how big is what was made; lines are cut at `columns`.
pub fn summary(summary: &Summary, exported: &[Exported], columns: Option<usize>) -> String {
    let Summary { run, cached, saved, slowest, transferred, elapsed } = summary;
    let steps = if *run == 1 { "step" } else { "steps" };
    let mut first = format!("{run} {steps} run, {cached} cached");
    if !saved.is_zero() {
        first += &format!(" (saved {})", duration(*saved));
    }
    let mut lines = vec![format!("{first} in {}", duration(*elapsed))];
    if *transferred > 0 {
        lines.push(format!("{} transferred", size(*transferred)));
    }
    // Several outputs of one image are told of once.
    let mut sizes: Vec<(&str, u64)> = Vec::new();
    for export in exported {
        let size = (if export.digest.is_some() { "image" } else { "files" }, export.size);
        if !sizes.contains(&size) {
            sizes.push(size);
        }
    }
    lines.extend(sizes.into_iter().map(|(what, bytes)| format!("{what}: {}", size(bytes))));
    if !slowest.is_empty() {
        lines.push("slowest:".to_owned());
    }
    for (took, name) in slowest {
        lines.push(format!("{:>8} {name}", duration(*took)));
    }
    let cut = |line: String| match columns {
        Some(columns) => fit(&line, columns.saturating_sub(1)).0 + "\n",
        None => line + "\n",
    };
    lines.into_iter().map(cut).collect()
}

/// Where what the steps printed can be read.
pub fn logs(response: &Response) -> String {
    let directory = response.logs.iter();
    directory.map(|directory| format!("logs: {}\n", directory.display())).collect()
}

/// The images that were made.
pub fn images(response: &Response) -> String {
    let mut text = String::new();
    for export in &response.exported {
        let Some(digest) = export.digest else { continue };
        for name in &export.names {
            let _ = writeln!(text, "{name}: {digest}");
        }
        if let Some(Loaded { into, sent }) = &export.loaded {
            let into = clean(into, Colours::Remove);
            let _ = match sent {
                0 => writeln!(text, "{into} has it already"),
                bytes => writeln!(text, "loaded into {into}: {bytes} bytes sent"),
            };
        }
    }
    text
}

/// What `--metadata-file` gets: a JSON object with the keys of buildx. Where several outputs have
/// one, the last goes.
pub fn metadata(response: &Response) -> String {
    let mut found = serde_json::Map::new();
    for (key, value) in &response.metadata {
        if key.starts_with("frontend.") {
            found.insert(key.clone(), String::from_utf8_lossy(value).into());
        }
    }
    for export in &response.exported {
        let mut set = |key: &str, value: Option<serde_json::Value>| {
            found.extend(value.map(|value| (key.to_owned(), value)));
        };
        set("containerimage.digest", export.digest.map(|digest| digest.to_string().into()));
        set("containerimage.config.digest", export.config.map(|digest| digest.to_string().into()));
        set("containerimage.descriptor", export.descriptor.as_ref().map(descriptor));
        let names = Some(export.names.join(",")).filter(|names| !names.is_empty());
        set("image.name", names.map(Into::into));
    }
    let mut text = serde_json::to_string_pretty(&found).expect("strings and numbers serialise");
    text.push('\n');
    text
}

/// A descriptor as the OCI image specification has it.
fn descriptor(descriptor: &Descriptor) -> serde_json::Value {
    let mut json = serde_json::json!({
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest.to_string(),
        "size": descriptor.size,
    });
    if !descriptor.annotations.is_empty() {
        json["annotations"] = serde_json::json!(descriptor.annotations);
    }
    json
}

/// The message with those of its causes that it does not have in it already.
fn message(failure: &Failure) -> String {
    let mut message = failure.to_string();
    let mut cause = failure.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !message.contains(&text) {
            let _ = write!(message, ": {text}");
        }
        cause = error.source();
    }
    message
}

/// Lines of a source file in BuildKit's manner, with carets below the part that is meant.
fn show(excerpt: &Excerpt) -> String {
    const RULE: &str = "--------------------\n";
    let first = excerpt.start.max(1) as usize;
    let last = (excerpt.end as usize).max(first);
    let column = match excerpt.start_column {
        0 => String::new(),
        column => format!(":{column}"),
    };
    let file = clean(&excerpt.file, Colours::Remove);
    let mut text = format!("{file}:{first}{column}\n{RULE}");
    let from = first.saturating_sub(CONTEXT).max(1);
    for (line, number) in excerpt.text.lines().zip(excerpt.first.max(1) as usize..) {
        if number < from || number > last + CONTEXT {
            continue;
        }
        if number >= first + MAX_MARKED && number <= last {
            if number == first + MAX_MARKED {
                text.push_str("  ...\n");
            }
            continue;
        }
        let marked = (first..=last).contains(&number);
        let mark = if marked { ">>>" } else { "   " };
        let shown: String = clean(line, Colours::Remove).chars().take(MAX_COLUMNS).collect();
        text.push_str(format!(" {number:3} | {mark} {shown}").trim_end());
        text.push('\n');
        if marked && let Some(carets) = carets(excerpt, line, number as u32) {
            let _ = writeln!(text, "     |     {carets}");
        }
    }
    text + RULE
}

/// Blanks and carets to stand below a line; `None` where the whole line is meant.
fn carets(excerpt: &Excerpt, line: &str, number: u32) -> Option<String> {
    let start = (excerpt.start_column as usize).checked_sub(1)?;
    let indented = line.chars().take_while(|c| c.is_whitespace()).count();
    let from = if number == excerpt.start { start } else { indented };
    let to = match excerpt.end_column {
        end if number == excerpt.end && end > 0 => end as usize,
        _ => usize::MAX,
    };
    let line: Vec<char> = line.trim_end().chars().take(MAX_COLUMNS).collect();
    let part = line.get(from..to.min(line.len()).max(from)).unwrap_or_default();
    // What stands in front keeps its width, and tabs, and the same goes for what is marked.
    let blanks: String = line.iter().take(from).map(|c| blank(*c)).collect();
    let width = part.iter().map(|c| columns(*c)).sum::<usize>();
    let continued = number != excerpt.start;
    match width {
        0 if continued || from > line.len() => None,
        width => Some(format!("{blanks}{}", "^".repeat(width.max(1)))),
    }
}

/// What is as wide as a character, and cannot be seen.
fn blank(c: char) -> String {
    if c == '\t' { c.into() } else { " ".repeat(columns(c)) }
}

/// How many columns a character takes once it is shown.
fn columns(c: char) -> usize {
    match c {
        '\t' => 1,
        c => c.width().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use expect_test::{Expect, expect};

    use super::*;

    const PLAIN: Style = Style { colours: Colours::Remove };

    fn place() -> Excerpt {
        Excerpt::default()
    }

    fn check_excerpt(start: u32, end: u32, expected: Expect) {
        let text = "FROM x\n\nRUN a && \\\n    b\nRUN\tlast\x1b[2J\n".to_owned();
        let file = "Dockerfile".into();
        expected.assert_eq(&show(&Excerpt { file, text, first: 1, start, end, ..place() }));
    }

    #[test]
    fn excerpts() {
        check_excerpt(
            3,
            4,
            expect![[r#"
            Dockerfile:3
            --------------------
               1 |     FROM x
               2 |
               3 | >>> RUN a && \
               4 | >>>     b
               5 |     RUN	last
            --------------------
        "#]],
        );
        check_excerpt(
            0,
            0,
            expect![[r#"
            Dockerfile:1
            --------------------
               1 | >>> FROM x
               2 |
               3 |     RUN a && \
            --------------------
        "#]],
        );
        check_excerpt(
            9,
            9,
            expect![[r#"
            Dockerfile:9
            --------------------
            --------------------
        "#]],
        );
    }

    #[test]
    fn carets_stand_below_what_is_meant() {
        let excerpt = |text: &str, lines: (u32, u32), columns: (u32, u32)| {
            show(&Excerpt {
                file: "Dockerfile".into(),
                text: text.into(),
                first: 7,
                start: lines.0,
                end: lines.1,
                start_column: columns.0,
                end_column: columns.1,
            })
        };
        expect![[r#"
            Dockerfile:8:5
            --------------------
               7 |     FROM x
               8 | >>> RUN --netwrk=no x
                 |         ^^^^^^^^
            --------------------
        "#]]
        .assert_eq(&excerpt("FROM x\nRUN --netwrk=no x\n", (8, 8), (5, 12)));
        // Wide characters and tabs are in front; the end is behind the line.
        expect![[r#"
            Dockerfile:7:4
            --------------------
               7 | >>> 語	x abc
                 |       	 ^^^^
            --------------------
        "#]]
        .assert_eq(&excerpt("語\tx abc\n", (7, 7), (4, 99)));
        expect![[r#"
            Dockerfile:7:5
            --------------------
               7 | >>> RUN a \
                 |         ^^^
               8 | >>>   b
                 |       ^
            --------------------
        "#]]
        .assert_eq(&excerpt("RUN a \\\n  b\n", (7, 8), (5, 0)));
    }

    #[test]
    fn a_long_excerpt_is_cut() {
        let text: String = (1..=40).map(|n| format!("line {n}\n")).collect();
        let shown =
            show(&Excerpt { file: "f".into(), text, first: 1, start: 5, end: 35, ..place() });
        assert!(shown.contains("  24 | >>> line 24\n  ...\n  36 |     line 36\n"), "{shown}");
        assert!(shown.contains("  37 |     line 37\n---"), "{shown}");
    }

    #[test]
    fn failures() {
        let error = cofferdam_build::Error::Invalid("process `false`: exit code: 1".into());
        let text = "FROM x\nRUN false\n".to_owned();
        let mut failed = Failure {
            error: Arc::new(error),
            step: Some("[2/2] RUN false".into()),
            excerpts: vec![Excerpt {
                file: "Dockerfile".into(),
                text,
                first: 1,
                start: 2,
                end: 2,
                ..place()
            }],
            hints: vec!["say `true`".into()],
            log: Some("/logs/x.log".into()),
            others: Vec::new(),
        };
        let mut tails = Tails::default();
        for event in crate::progress::failed_step("[2/2] RUN false", "last words\n") {
            tails.add(&event);
        }
        expect![[r#"
            ------
             > [2/2] RUN false:
            0.000 last words
            ------
            Dockerfile:2
            --------------------
               1 |     FROM x
               2 | >>> RUN false
            --------------------
            error: step `[2/2] RUN false`: process `false`: exit code: 1
            hint: say `true`
        "#]]
        .assert_eq(&failure(&failed, &tails, PLAIN));
        let mut tails = Tails::default();
        for event in crate::progress::failed_step("[2/2] RUN false", &"many\n".repeat(30)) {
            tails.add(&event);
        }
        let shown = failure(&failed, &tails, PLAIN);
        assert!(shown.contains("many\nfull log: /logs/x.log\n------\n"), "{shown}");
        (failed.step, failed.excerpts) = (None, Vec::new());
        let colours = Style { colours: Colours::Keep };
        expect![[r#"
            ^[[1;31merror:^[[0m process `false`: exit code: 1
            ^[[36mhint:^[[0m say `true`
        "#]]
        .assert_eq(&failure(&failed, &tails, colours).replace('\x1b', "^["));
    }

    #[test]
    fn messages_cannot_drive_the_terminal() {
        let usage = Error::usage("bad \x1b[2Jvalue\x07").hint("a\x1b]0;x\x07b");
        assert_eq!(error(&usage, PLAIN), "error: bad value\nhint: ab\n");
    }

    #[test]
    fn summaries() {
        use std::time::Duration;
        let slowest = vec![
            (Duration::from_secs(83), "[2/3] RUN make --with-a-long-line-of-options".into()),
            (Duration::from_millis(1500), "exporting to image".into()),
        ];
        let elapsed = Duration::from_secs(86);
        let saved = Duration::from_secs(40);
        let image = Exported {
            digest: Some(cofferdam_types::Digest::of("x")),
            size: 7_000_000,
            ..Exported::default()
        };
        let exported = [image.clone(), image, Exported { size: 12, ..Exported::default() }];
        let all = Summary { run: 2, cached: 3, saved, slowest, transferred: 4_000_000, elapsed };
        expect![[r#"
            2 steps run, 3 cached (saved 40.0s) in 1m 26s
            4.00MB transferred
            image: 7.00MB
            files: 12B
            slowest:
              1m 23s [2/3] RUN make --with-a-long-line-of-options
                1.5s exporting to image
        "#]]
        .assert_eq(&summary(&all, &exported, None));
        assert!(summary(&all, &[], Some(20)).lines().all(|line| line.chars().count() < 20));
        let nothing = Summary { cached: 5, ..Summary::default() };
        assert_eq!(summary(&nothing, &[], None), "0 steps run, 5 cached in 0.0s\n");
    }

    #[test]
    fn warnings_and_images() {
        let told = Warning {
            short: "careful".into(),
            detail: vec!["more words".into()],
            url: "https://example.org".into(),
            locations: Vec::new(),
        };
        let shown = warning(&told, &[], PLAIN);
        assert_eq!(shown, "warning: careful\n  more words\n  more: https://example.org\n");
        let digest = cofferdam_types::Digest::of("x");
        let image = Exported {
            digest: Some(digest),
            descriptor: Some(Descriptor::of("type", b"x")),
            config: Some(digest),
            names: vec!["a:1".into(), "b:1".into()],
            size: 1,
            loaded: Some(Loaded { into: "Docker".into(), sent: 7 }),
        };
        let exported = vec![Exported::default(), image];
        let response = Response { exported, ..Response::default() };
        let shown = format!("a:1: {digest}\nb:1: {digest}\nloaded into Docker: 7 bytes sent\n");
        assert_eq!(images(&response), shown);
        expect![[r#"
            {
              "containerimage.config.digest": "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
              "containerimage.descriptor": {
                "digest": "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
                "mediaType": "type",
                "size": 1
              },
              "containerimage.digest": "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
              "image.name": "a:1,b:1"
            }
        "#]].assert_eq(&metadata(&response));
    }
}
