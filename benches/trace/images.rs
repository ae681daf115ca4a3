//! Images: how many layers, how large, what they share.

use fastrand::Rng;

/// Chains of layers that many images start from.
const BASES: usize = 50;
/// Part of the images that start from one of them.
const WITH_BASE: f64 = 0.6;
const MAX_LAYERS: usize = 120;

/// A layer is its index; an image its layers from the bottom up.
pub(super) struct Images {
    pub(super) sizes: Vec<u64>,
    bases: Vec<Vec<u32>>,
    base_weights: Zipf,
}

impl Images {
    pub(super) fn new(rng: &mut Rng) -> Images {
        let mut images = Images { sizes: Vec::new(), bases: Vec::new(), base_weights: Zipf::new(BASES, 1.0) };
        for _ in 0..BASES {
            let layers = rng.usize(1..=6);
            let chain = (0..layers).map(|_| images.layer(rng)).collect();
            images.bases.push(chain);
        }
        images
    }

    /// A new layer.
    pub(super) fn layer(&mut self, rng: &mut Rng) -> u32 {
        self.sizes.push(size(rng));
        (self.sizes.len() - 1) as u32
    }

    /// A new image: a base chain, or none, and layers of its own.
    pub(super) fn image(&mut self, rng: &mut Rng) -> Vec<u32> {
        let wanted = layers(rng);
        let mut image =
            if rng.f64() < WITH_BASE { self.bases[self.base_weights.draw(rng)].clone() } else { Vec::new() };
        while image.len() < wanted {
            image.push(self.layer(rng));
        }
        image
    }

    /// The next version of an image: its top one to three layers are new.
    pub(super) fn next_version(&mut self, image: &[u32], rng: &mut Rng) -> Vec<u32> {
        let replaced = rng.usize(1..=3).min(image.len());
        let mut next = image[..image.len() - replaced].to_vec();
        for _ in 0..replaced {
            next.push(self.layer(rng));
        }
        next
    }
}

/// Layers of an image: log-normal, median 8, 90th percentile 18.
fn layers(rng: &mut Rng) -> usize {
    let sigma = (18.0_f64 / 8.0).ln() / 1.2816;
    let count = (8.0_f64.ln() + sigma * normal(rng)).exp().round();
    (count as usize).clamp(1, MAX_LAYERS)
}

/// Compressed size of a layer: 65 % below 1 MB, 80 % below 10 MB, a heavy tail
/// up to 1 GB.
fn size(rng: &mut Rng) -> u64 {
    let kind = rng.f64();
    let bytes = if kind < 0.65 {
        log_uniform(rng, 128.0, 1e6)
    } else if kind < 0.80 {
        log_uniform(rng, 1e6, 1e7)
    } else {
        bounded_pareto(rng, 1.1, 1e7, 1e9)
    };
    bytes as u64
}

pub(super) fn log_uniform(rng: &mut Rng, low: f64, high: f64) -> f64 {
    (low.ln() + rng.f64() * (high / low).ln()).exp()
}

fn bounded_pareto(rng: &mut Rng, alpha: f64, low: f64, high: f64) -> f64 {
    let (l, h) = (low.powf(-alpha), high.powf(-alpha));
    (l - rng.f64() * (l - h)).powf(-1.0 / alpha)
}

fn normal(rng: &mut Rng) -> f64 {
    let (u, v) = (rng.f64().max(1e-12), rng.f64());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// Draws ranks, the first most often.
pub(super) struct Zipf(Vec<f64>);

impl Zipf {
    pub(super) fn new(n: usize, exponent: f64) -> Zipf {
        let mut sum = 0.0;
        let cumulative = (1..=n)
            .map(|rank| {
                sum += (rank as f64).powf(-exponent);
                sum
            })
            .collect();
        Zipf(cumulative)
    }

    pub(super) fn draw(&self, rng: &mut Rng) -> usize {
        let at = rng.f64() * self.0.last().unwrap();
        self.0.partition_point(|cumulative| *cumulative < at).min(self.0.len() - 1)
    }
}
