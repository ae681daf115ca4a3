//! Who pulls when: waves of nodes that deploy one image, single pulls between
//! them, images that are pulled once and never again.

use std::time::Duration;

use fastrand::Rng;

use super::Request;
use super::images::{Images, Zipf, log_uniform};

const NODES: usize = 1000;
const IMAGES: usize = 4000;
const WAVES_PER_DAY: u32 = 150;
/// Part of the pulls' events that are single pulls of a machine with nothing.
const SINGLE: f64 = 0.3;
/// Part of the distinct images that are pulled once.
const ONCE: f64 = 0.4;
/// Part of the waves that deploy a new version.
const NEW_VERSION: f64 = 0.2;
/// Nodes of a wave come after one another, this far on average.
const OFFSET: f64 = 10.0;
/// Ranks drawn anew each day.
const DRIFT: f64 = 0.02;
const DAY: f64 = 86_400.0;

/// Requests in time order, and the sizes of the layers they ask for.
pub(super) struct Trace {
    pub(super) requests: Vec<Request>,
    pub(super) sizes: Vec<u64>,
}

impl Trace {
    pub(super) fn generate(seed: u64, days: u32, skew: f64) -> Trace {
        let mut rng = Rng::with_seed(seed);
        let mut images = Images::new(&mut rng);
        let mut current: Vec<Vec<u32>> = (0..IMAGES).map(|_| images.image(&mut rng)).collect();
        let mut ranks: Vec<usize> = (0..IMAGES).collect();
        let popularity = Zipf::new(IMAGES, skew);
        let mut nodes = Nodes::default();
        let mut requests = Vec::new();
        for day in 0..days {
            for _ in 0..(IMAGES as f64 * DRIFT) as usize {
                ranks.swap(rng.usize(..IMAGES), rng.usize(..IMAGES));
            }
            for _ in 0..WAVES_PER_DAY {
                let at = (f64::from(day) + rng.f64()) * DAY;
                let chosen = ranks[popularity.draw(&mut rng)];
                if rng.f64() < SINGLE {
                    let single = if rng.f64() < ONCE { images.image(&mut rng) } else { current[chosen].clone() };
                    push(&mut requests, at, &single);
                    continue;
                }
                if rng.f64() < NEW_VERSION {
                    current[chosen] = images.next_version(&current[chosen], &mut rng);
                }
                // An image runs on nodes next to each other, always the same.
                let count = log_uniform(&mut rng, 1.0, NODES as f64) as usize;
                for node in 0..count {
                    let node = (chosen * 7919 + node) % NODES;
                    let offset = -OFFSET * rng.f64().max(1e-12).ln();
                    let missing = nodes.pull(node, &current[chosen]);
                    push(&mut requests, at + offset, &missing);
                }
            }
        }
        requests.sort_by_key(|request| request.at);
        Trace { requests, sizes: images.sizes }
    }
}

fn push(requests: &mut Vec<Request>, at: f64, layers: &[u32]) {
    requests.extend(layers.iter().map(|layer| Request { at: Duration::from_secs_f64(at), layer: *layer }));
}

/// Which node has which layer already.
#[derive(Default)]
struct Nodes(Vec<[u64; NODES.div_ceil(64)]>);

impl Nodes {
    /// The layers that the node has to fetch; it has them from now on.
    fn pull(&mut self, node: usize, image: &[u32]) -> Vec<u32> {
        let mut missing = Vec::new();
        for layer in image {
            let index = *layer as usize;
            if self.0.len() <= index {
                self.0.resize(index + 1, [0; NODES.div_ceil(64)]);
            }
            let word = &mut self.0[index][node / 64];
            if *word & (1 << (node % 64)) == 0 {
                *word |= 1 << (node % 64);
                missing.push(*layer);
            }
        }
        missing
    }
}
