//! Who pulls when: waves of nodes that deploy one image, single pulls between
//! them, images that are pulled once and never again.

use std::time::Duration;

use fastrand::Rng;

use super::Request;
use super::images::{Images, Zipf, log_uniform};

/// How large the world is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) nodes: usize,
    pub(super) images: usize,
    /// Waves and single pulls in a day.
    pub(super) events_per_day: u32,
    pub(super) days: u32,
}

impl Shape {
    /// A fleet.
    pub(super) fn fleet(days: u32) -> Shape {
        Shape { nodes: 1000, images: 4000, events_per_day: 150, days }
    }
}

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

/// One node's pull of an image: the layers that it does not have.
pub(super) struct Pull {
    /// Its wave, or the single pull that it is.
    pub(super) event: u32,
    /// When the event began.
    pub(super) began: f64,
    /// Seconds after that.
    pub(super) offset: f64,
    pub(super) layers: Vec<u32>,
}

/// Pulls, and the sizes of the layers they ask for.
pub(super) struct Trace {
    pub(super) pulls: Vec<Pull>,
    pub(super) sizes: Vec<u64>,
}

impl Trace {
    pub(super) fn generate(seed: u64, shape: Shape, skew: f64) -> Trace {
        let Shape { nodes: node_count, images: image_count, events_per_day, days } = shape;
        let mut rng = Rng::with_seed(seed);
        let mut images = Images::new(&mut rng);
        let mut current: Vec<Vec<u32>> = (0..image_count).map(|_| images.image(&mut rng)).collect();
        let mut ranks: Vec<usize> = (0..image_count).collect();
        let popularity = Zipf::new(image_count, skew);
        let mut nodes = Nodes { count: node_count, has: Vec::new() };
        let (mut pulls, mut event) = (Vec::new(), 0);
        for day in 0..days {
            for _ in 0..(image_count as f64 * DRIFT) as usize {
                ranks.swap(rng.usize(..image_count), rng.usize(..image_count));
            }
            for _ in 0..events_per_day {
                event += 1;
                let began = (f64::from(day) + rng.f64()) * DAY;
                let chosen = ranks[popularity.draw(&mut rng)];
                if rng.f64() < SINGLE {
                    let single = if rng.f64() < ONCE { images.image(&mut rng) } else { current[chosen].clone() };
                    pulls.push(Pull { event, began, offset: 0.0, layers: single });
                    continue;
                }
                if rng.f64() < NEW_VERSION {
                    current[chosen] = images.next_version(&current[chosen], &mut rng);
                }
                // An image runs on nodes next to each other, always the same.
                let count = log_uniform(&mut rng, 1.0, node_count as f64) as usize;
                for node in 0..count {
                    let node = (chosen * 7919 + node) % node_count;
                    let offset = -OFFSET * rng.f64().max(1e-12).ln();
                    let layers = nodes.pull(node, &current[chosen]);
                    pulls.push(Pull { event, began, offset, layers });
                }
            }
        }
        Trace { pulls, sizes: images.sizes }
    }

    /// Every request for a layer, in time order.
    pub(super) fn requests(&self) -> Vec<Request> {
        let mut requests = Vec::new();
        for Pull { began, offset, layers, .. } in &self.pulls {
            let at = Duration::from_secs_f64(began + offset);
            requests.extend(layers.iter().map(|layer| Request { at, layer: *layer }));
        }
        requests.sort_by_key(|request| request.at);
        requests
    }
}

/// Which node has which layer already.
struct Nodes {
    count: usize,
    /// For each layer, a bit for each node.
    has: Vec<Vec<u64>>,
}

impl Nodes {
    /// The layers that the node has to fetch; it has them from now on.
    fn pull(&mut self, node: usize, image: &[u32]) -> Vec<u32> {
        let mut missing = Vec::new();
        for layer in image {
            let index = *layer as usize;
            if self.has.len() <= index {
                self.has.resize(index + 1, vec![0; self.count.div_ceil(64)]);
            }
            let word = &mut self.has[index][node / 64];
            if *word & (1 << (node % 64)) == 0 {
                *word |= 1 << (node % 64);
                missing.push(*layer);
            }
        }
        missing
    }
}
