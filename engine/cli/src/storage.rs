//! The commands about the state directory: `cofferdam du`, `prune` and `store`.

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cofferdam_build::{Filter, Prune, Repair, StateDirectory, Usage};
use serde_json::json;

use crate::args;
use crate::error::{Error, exit};
use crate::progress::text::{Colours, size};

/// Columns that a description may take in a list.
const DESCRIPTION: usize = 60;

/// `cofferdam du`
///
/// # Errors
/// When a filter is malformed or the state directory cannot be used.
pub fn du(root: &Path, args: &args::Du) -> Result<(), Error> {
    let filters = filters(&args.filters)?;
    let usage = StateDirectory::open(root)?.disk_usage()?;
    let wanted: Vec<&Usage> = usage
        .things
        .iter()
        .filter(|thing| filters.is_empty() || filters.iter().any(|filter| filter.matches(thing)))
        .collect();
    if args.json {
        let lines = wanted.iter().map(|thing| format!("{}\n", to_json(thing)));
        return print(&lines.collect::<String>());
    }
    let mut text = String::new();
    for thing in &wanted {
        if args.verbose {
            text += &paragraph(thing);
            continue;
        }
        if text.is_empty() {
            text = line("ID", "SIZE", "LAST USED", "TYPE", "DESCRIPTION");
        }
        text += &line(
            &short_id(&thing.id),
            &format!("{}{}", size(thing.bytes), if thing.in_use() { "*" } else { "" }),
            &thing.last_used.map_or_else(|| "-".into(), ago),
            &thing.kind,
            &shortened(&thing.description),
        );
    }
    let sum = |wanted: &mut dyn Iterator<Item = &&Usage>| wanted.map(|thing| thing.bytes).sum();
    let in_use = sum(&mut wanted.iter().filter(|thing| thing.in_use()));
    let total: u64 = sum(&mut wanted.iter());
    text += &format!("In use: {}\n", size(in_use));
    text += &format!("Can be removed: {}\n", size(total - in_use));
    if filters.is_empty() {
        text += &format!("Database, compiled components and logs: {}\n", size(usage.rest));
        text += &format!("Total: {}\n", size(total + usage.rest));
    } else {
        text += &format!("Total: {}\n", size(total));
    }
    print(&text)
}

/// `cofferdam prune`
///
/// # Errors
/// When a filter is malformed or the state directory cannot be used.
pub fn prune(root: &Path, args: &args::Prune) -> Result<(), Error> {
    let mut keep_bytes = args.max_used_space.unwrap_or(0);
    if let Some(free) = args.min_free_space {
        let fs = rustix::fs::statvfs(root).map_err(|error| Error::File {
            action: "stat",
            path: root.into(),
            source: error.into(),
        })?;
        let missing = free.saturating_sub(fs.f_bavail * fs.f_frsize);
        if missing == 0 && keep_bytes == 0 {
            return print("Total reclaimed space: 0B\n");
        }
        let usage = StateDirectory::open(root)?.disk_usage()?;
        let used: u64 = usage.things.iter().map(|thing| thing.bytes).sum::<u64>() + usage.rest;
        let limit = used.saturating_sub(missing).max(1);
        keep_bytes = if keep_bytes == 0 { limit } else { keep_bytes.min(limit) };
    }
    let prune = Prune {
        filters: filters(&args.filters)?,
        images: args.all,
        keep_duration: args.keep_duration.unwrap_or_default(),
        keep_bytes: keep_bytes.max(args.reserved_space.unwrap_or(0)),
    };
    let pruned = StateDirectory::open(root)?.prune(&prune)?;
    let mut text = String::new();
    for name in &pruned.images {
        text += &format!("image {}\n", clean(name));
    }
    for thing in &pruned.removed {
        if text.is_empty() {
            text = line("ID", "SIZE", "LAST USED", "TYPE", "DESCRIPTION");
        }
        text += &line(
            &short_id(&thing.id),
            &size(thing.bytes),
            &thing.last_used.map_or_else(|| "-".into(), ago),
            &thing.kind,
            &shortened(&thing.description),
        );
    }
    text += &format!("Total reclaimed space: {}\n", size(pruned.bytes));
    print(&text)
}

/// `cofferdam store verify`; gives the exit code.
///
/// # Errors
/// When the state directory cannot be used.
pub fn verify(root: &Path, repair: Repair) -> Result<u8, Error> {
    let verified = StateDirectory::verify(root, repair)?;
    let mut text = String::new();
    for problem in &verified.problems {
        text += &format!("{}: {}\n", clean(&problem.what), clean(&problem.reason));
    }
    for path in &verified.left_over {
        text += &format!("{}: left behind by a process\n", clean(&path.to_string_lossy()));
    }
    text += &format!(
        "{} records and {} layers, packs and blobs checked, {} read: ",
        verified.records,
        verified.objects,
        size(verified.bytes)
    );
    text += &match (verified.problems.len(), repair) {
        (0, _) => "all right\n".to_owned(),
        (count, Repair::Drop) => format!("{count} problems; what is damaged was dropped\n"),
        (count, Repair::Report) => format!("{count} problems; nothing was changed\n"),
    };
    print(&text)?;
    Ok(if verified.problems.is_empty() { exit::OK } else { exit::CONFIGURATION })
}

/// `cofferdam store sync`
///
/// # Errors
/// When the disk fails.
pub fn sync(root: &Path) -> Result<(), Error> {
    Ok(StateDirectory::open(root)?.sync()?)
}

/// Starts `cofferdam store sync` and leaves it to itself: a build does not wait for the disk.
///
/// # Errors
/// When the program cannot be started.
pub fn sync_later(root: &Path) -> io::Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--root").arg(std::path::absolute(root)?).args(["store", "sync"]);
    command.process_group(0).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map(drop)
}

/// Text of a name that somebody else chose.
fn clean(text: &str) -> String {
    crate::progress::text::clean(text, Colours::Remove)
}

fn filters(texts: &[String]) -> Result<Vec<Filter>, Error> {
    texts.iter().map(|text| text.parse::<Filter>().map_err(Error::usage)).collect()
}

fn print(text: &str) -> Result<(), Error> {
    match io::stdout().write_all(text.as_bytes()) {
        // As with `| head`: the reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|source| Error::File {
            action: "print to",
            path: "/dev/stdout".into(),
            source,
        }),
    }
}

fn line(id: &str, size: &str, used: &str, kind: &str, description: &str) -> String {
    let text = format!("{id:<17} {size:>10}  {used:<15} {kind:<13} {description}");
    format!("{}\n", text.trim_end())
}

fn short_id(id: &str) -> String {
    match id.split_once(" sha256:") {
        Some((kind, hex)) => format!("{kind} {}", hex.get(..12).unwrap_or(hex)),
        None => id.to_owned(),
    }
}

fn shortened(text: &str) -> String {
    let text = clean(text);
    match text.char_indices().nth(DESCRIPTION) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// How long a time (seconds since 1970) is gone.
fn ago(then: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = now.saturating_sub(u64::try_from(then).unwrap_or(0));
    for (unit, length) in [("days", 86400), ("hours", 3600), ("minutes", 60)] {
        if seconds >= 2 * length {
            return format!("{} {unit} ago", seconds / length);
        }
    }
    format!("{seconds} s ago")
}

fn paragraph(thing: &Usage) -> String {
    let mut text = String::new();
    let mut field = |name: &str, value: String| text += &format!("{name:<13} {value}\n");
    field("ID:", thing.id.clone());
    field("Type:", thing.kind.clone());
    if !thing.description.is_empty() {
        field("Description:", clean(&thing.description));
    }
    field("Size:", size(thing.bytes));
    field("Created:", ago(thing.created));
    if let Some(used) = thing.last_used {
        field("Last used:", ago(used));
        field("Usage count:", thing.uses.to_string());
    }
    field("Shared by:", thing.shared.to_string());
    if !thing.images.is_empty() {
        field("Images:", clean(&thing.images.join(", ")));
    }
    if thing.in_use() {
        let pids: Vec<String> = thing.held_by.iter().map(ToString::to_string).collect();
        field("Held by:", format!("process {}", pids.join(", ")));
    }
    text + "\n"
}

fn to_json(thing: &Usage) -> serde_json::Value {
    json!({
        "id": thing.id,
        "type": thing.kind,
        "description": thing.description,
        "bytes": thing.bytes,
        "created": thing.created,
        "lastUsed": thing.last_used,
        "usageCount": thing.uses,
        "shared": thing.shared,
        "images": thing.images,
        "heldBy": thing.held_by,
        "inUse": thing.in_use(),
    })
}

/// A duration as Go writes it: `36h`, `90m`, `1h30m`; a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a duration, like `48h` or `90m`".to_owned();
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits =
            rest.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let mut units = rest[digits..].chars();
        let seconds = match units.next() {
            Some('d') => 86400,
            Some('h') => 3600,
            Some('m') => 60,
            Some('s') => 1,
            _ => return Err(wrong()),
        };
        total = number
            .checked_mul(seconds)
            .and_then(|seconds| total.checked_add(Duration::from_secs(seconds)))
            .ok_or_else(wrong)?;
        rest = units.as_str();
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [("90", 90), ("48h", 172_800), ("1h30m", 5400), ("2d", 172_800)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "h", "3w", "3é", "-1h", "99999999999999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_list_has_columns() {
        let text = line("layer 7", "1.00MB*", "3 hours ago", "regular", "RUN make");
        assert_eq!(text, "layer 7              1.00MB*  3 hours ago     regular       RUN make\n");
        assert_eq!(short_id("blob sha256:0123456789abcdef"), "blob 0123456789ab");
    }
}
