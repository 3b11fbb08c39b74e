//! Does what its first argument says, and prints what came of it: `probe-rust work|escape|exit
//! CODE|panic|memory|loop|fill FILE MIB|variable NAME`.

use std::{env, fs, io, net, process};

fn main() -> io::Result<()> {
    let args: Vec<String> = env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("work") => work(&args),
        Some("escape") => {
            escape();
            Ok(())
        }
        Some("exit") => process::exit(args[2].parse().expect("a number")),
        Some("panic") => panic!("as I was told"),
        Some("memory") => {
            let mut kept = Vec::new();
            loop {
                kept.push(vec![1u8; 16 << 20]);
                println!("{} MiB", kept.len() * 16);
            }
        }
        Some("loop") => {
            println!("looping");
            loop {
                std::hint::black_box(&args);
            }
        }
        Some("fill") => {
            let mebibytes: usize = args[3].parse().expect("a number");
            fs::write(&args[2], vec![1; mebibytes << 20])
        }
        Some("variable") => {
            println!("{:?}", env::var(&args[2]).ok());
            Ok(())
        }
        other => {
            eprintln!("no such thing: {other:?}");
            process::exit(1)
        }
    }
}

/// Makes, changes and removes files.
fn work(args: &[String]) -> io::Result<()> {
    println!("arguments {:?}", &args[2..]);
    println!("GREETING {:?}", env::var("GREETING").ok());
    let mut names: Vec<_> = fs::read_dir("/data")?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    names.sort();
    println!("data {names:?}");
    fs::create_dir_all("/made/deep")?;
    fs::write("/made/deep/file", "made\n")?;
    fs::hard_link("/made/deep/file", "/made/link")?;
    fs::write("/data/changed", "changed\n")?;
    fs::rename("/data/moved", "/data/directory/moved")?;
    fs::remove_file("/data/removed")?;
    fs::remove_dir_all("/data/tree")?;
    fs::remove_file("/data/kind")?;
    fs::create_dir("/data/kind")?;
    fs::write("/data/kind/inside", "x")
}

/// Tries to get out.
fn escape() {
    for path in [
        "/etc/hostname",
        "/proc/self/environ",
        "/../etc/hostname",
        "../../../../../../etc/hostname",
        "/data/absolute/hostname",
        "/data/relative/hostname",
    ] {
        println!("read {path}: {}", told(fs::read(path)));
        println!("write {path}: {}", told(fs::write(path, "x")));
    }
    let out = env::var("SERVER").unwrap_or_default();
    println!("connect: {}", told(net::TcpStream::connect(out)));
    println!("listen: {}", told(net::TcpListener::bind("127.0.0.1:0")));
}

fn told<T>(result: io::Result<T>) -> &'static str {
    if result.is_ok() { "yes" } else { "no" }
}
