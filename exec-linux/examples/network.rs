//! Shows what network steps get on this machine, and how long network namespaces take to make:
//! `network [COUNT]`.

use std::time::Instant;

use cofferdam_exec_linux::{Network, NetworkConfig, Networks};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: usize = std::env::args().nth(1).map_or(Ok(20), |count| count.parse())?;
    let networks = Networks::new(NetworkConfig::default(), None);
    let started = Instant::now();
    let chosen = networks.chosen().await?;
    println!("{} in {:?}, {:?}", chosen.kind, started.elapsed(), chosen.lacking);
    for network in [Network::Default, Network::None] {
        let (mut times, mut held) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let started = Instant::now();
            held.push(networks.namespace(network).await?);
            times.push(started.elapsed());
        }
        times.sort();
        println!("{network:?}: least {:?}, median {:?}", times[0], times[count / 2]);
    }
    Ok(())
}
