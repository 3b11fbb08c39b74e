//! Goes through directories of any depth. A step can make directories in one another far deeper
//! than a path can say; by path they are out of reach, and a function that calls itself takes a
//! descriptor and a piece of the stack for each. What cannot be removed would fill the disk for
//! good, and what is not counted would exceed its limit.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, statat, unlinkat};
use rustix::io::Errno;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory of which not everything has been seen.
struct Level {
    name: CString,
    /// Device and inode, by which it is recognised.
    identity: (u64, u64),
    /// Directories in it that are to be entered.
    left: Vec<CString>,
}

/// Enters a directory and each one below it that its `enter` names, and tells of each, by its name
/// in the one above, when it has been left. What `enter` gives nothing for is passed over.
///
/// # Errors
/// Those of the two.
fn descend(
    path: &Path,
    mut enter: impl FnMut(BorrowedFd<'_>, &CStr) -> io::Result<Option<(OwnedFd, Vec<CString>)>>,
    mut left: impl FnMut(BorrowedFd<'_>, &CStr) -> io::Result<()>,
) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let Some((mut here, within)) = enter(CWD, &name)? else { return Ok(()) };
    let mut stack = vec![Level { name, identity: identity(&here)?, left: within }];
    // One descriptor is open at a time: `..` leads back, unless somebody moves a directory.
    while let Some(level) = stack.last_mut() {
        if let Some(name) = level.left.pop() {
            if let Some((below, left)) = enter(here.as_fd(), &name)? {
                here = below;
                stack.push(Level { name, identity: identity(&here)?, left });
            }
            continue;
        }
        let Level { name, .. } = stack.pop().expect("it was looked at just above");
        if let Some(above) = stack.last() {
            let back = open(here.as_fd(), c"..")?;
            if identity(&back)? == above.identity {
                here = back;
                left(here.as_fd(), &name)?;
            } else {
                here = again(&mut stack)?;
            }
        }
    }
    Ok(())
}

fn identity(directory: &OwnedFd) -> io::Result<(u64, u64)> {
    let stat = fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Goes down from the top to the last level that is where it was, and forgets those below.
fn again(stack: &mut Vec<Level>) -> io::Result<OwnedFd> {
    let mut here = open(CWD, &stack[0].name)?;
    for depth in 1..stack.len() {
        match open(here.as_fd(), &stack[depth].name) {
            Ok(below) if identity(&below)? == stack[depth].identity => here = below,
            _ => {
                stack.truncate(depth);
                break;
            }
        }
    }
    Ok(here)
}

/// Opens a directory. A link is none.
fn open(above: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    Ok(openat(above, name, DIRECTORY, Mode::empty())?)
}

/// The names in a directory.
fn names(directory: BorrowedFd<'_>) -> io::Result<impl Iterator<Item = io::Result<CString>>> {
    let names = Dir::read_from(directory)?.map(|entry| Ok(entry?.file_name().to_owned()));
    let real = |name: &CString| !matches!(name.as_bytes(), b"." | b"..");
    Ok(names.filter(move |name| name.as_ref().map_or(true, real)))
}

/// Removes a file, or a directory with all below it. Links are removed, not followed.
///
/// # Errors
/// When something cannot be removed.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    let enter = |above: BorrowedFd<'_>, name: &CStr| {
        let directory = open(above, name)?;
        let directories = remove_files(directory.as_fd())?;
        Ok(Some((directory, directories)))
    };
    descend(path, enter, |above, name| Ok(unlinkat(above, name, AtFlags::REMOVEDIR)?))?;
    fs::remove_dir(path)
}

/// Removes what is in a directory and is none itself; the names of the others.
fn remove_files(directory: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut directories = Vec::new();
    for name in names(directory)? {
        let name = name?;
        match unlinkat(directory, &name, AtFlags::empty()) {
            Err(Errno::ISDIR) => directories.push(name),
            result => result?,
        }
    }
    Ok(directories)
}

/// Bytes that a file, or a directory with all in it, takes on the disk. Files with several names
/// count where all of the names are here or there is just one; what cannot be read counts
/// nothing.
pub fn disk_usage(path: &Path) -> u64 {
    let mut total = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => metadata.blocks() * 512,
        Ok(metadata) if metadata.nlink() == 1 => return metadata.blocks() * 512,
        _ => return 0,
    };
    // By inode: how many names were found, and how many there are.
    let mut linked: HashMap<u64, (u64, u64, u64)> = HashMap::new();
    let enter = |above: BorrowedFd<'_>, name: &CStr| {
        let Ok(directory) = open(above, name) else { return Ok(None) };
        let mut directories = Vec::new();
        for name in names(directory.as_fd()).into_iter().flatten().flatten() {
            let Ok(stat) = statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let bytes = stat.st_blocks.cast_unsigned() * 512;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                total += bytes;
                directories.push(name);
            } else if stat.st_nlink > 1 {
                linked.entry(stat.st_ino).or_insert((0, stat.st_nlink, bytes)).0 += 1;
            } else {
                total += bytes;
            }
        }
        Ok(Some((directory, directories)))
    };
    // Nothing is an error here but that the directory is gone.
    _ = descend(path, enter, |_, _| Ok(()));
    let all = |(found, names, bytes): &(u64, u64, u64)| if found == names { *bytes } else { 0 };
    total + linked.values().map(all).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use rustix::fs::mkdirat;

    use super::*;

    const NAME: &CStr = c"a-directory-whose-name-takes-its-room";

    /// Directories in one another, with a file of so many bytes in the last.
    fn deep(top: &Path, levels: usize, bytes: usize) {
        let mut here = open(CWD, &CString::new(top.as_os_str().as_bytes()).unwrap()).unwrap();
        for _ in 0..levels {
            mkdirat(&here, NAME, Mode::RWXU).unwrap();
            here = open(here.as_fd(), NAME).unwrap();
        }
        let flags = OFlags::CREATE | OFlags::WRONLY;
        let file = openat(&here, "file", flags, Mode::RUSR).unwrap();
        assert_eq!(rustix::io::write(&file, &vec![1; bytes]).unwrap(), bytes);
    }

    #[test]
    fn what_no_path_can_name_is_counted_and_removed() {
        let place = tempfile::tempdir().unwrap();
        let top = place.path().join("top");
        fs::create_dir(&top).unwrap();
        deep(&top, 1000, 1 << 20);
        let counted = disk_usage(&top);
        assert!(counted >= (1 << 20) + 1000, "{counted}");
        let one = disk_usage(&top.join(NAME.to_str().unwrap()));
        assert!(one < counted && one >= 1 << 20, "{one} of {counted}");
        remove_tree(&top).unwrap();
        assert_eq!((disk_usage(&top), top.exists()), (0, false));
    }

    #[test]
    fn names_of_a_file_count_once_and_only_if_all_are_there() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        fs::create_dir_all(path("a/b")).unwrap();
        let empty = disk_usage(&path("a"));
        fs::write(path("a/file"), vec![1; 1 << 20]).unwrap();
        let whole = disk_usage(&path("a"));
        assert!(whole >= empty + (1 << 20), "{empty}, {whole}");
        fs::hard_link(path("a/file"), path("a/b/link")).unwrap();
        assert_eq!((disk_usage(&path("a")), disk_usage(&path("a/b/link"))), (whole, 0));
        fs::hard_link(path("a/file"), path("elsewhere")).unwrap();
        assert_eq!(disk_usage(&path("a")), empty);
    }

    #[test]
    fn what_was_moved_is_passed_over() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        fs::create_dir_all(path("top/a/b/c")).unwrap();
        fs::create_dir(path("top/d")).unwrap();
        let mut seen = Vec::new();
        let enter = |above: BorrowedFd<'_>, name: &CStr| {
            let directory = open(above, name)?;
            let below: io::Result<Vec<CString>> = names(directory.as_fd())?.collect();
            let name = Path::new(name.to_str().unwrap()).file_name().unwrap().to_owned();
            if name == "c" {
                fs::rename(path("top/a/b"), path("b")).unwrap();
                fs::rename(path("b/c"), path("c")).unwrap();
            }
            seen.push(name);
            Ok(Some((directory, below?)))
        };
        let mut left = Vec::new();
        descend(&path("top"), enter, |_, name| {
            left.push(name.to_owned());
            Ok(())
        })
        .unwrap();
        seen.sort();
        assert_eq!(seen, ["a", "b", "c", "d", "top"]);
        left.sort();
        assert_eq!(left, [c"a", c"d"].map(CStr::to_owned));
    }
}
