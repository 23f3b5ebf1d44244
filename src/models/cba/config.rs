//! What a person may set about CBA: the tables `[trunk]`, `[routing]`, `[counterfactual]`, `[temporal]` and
//! `[quantisation]` of a configuration file.

use crate::error::{Error, Result};
use crate::models::perturb::Perturbation;
use serde::{Deserialize, Serialize};

/// Everything about CBA that is not in the common `[model]` table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CbaConfig {
    pub trunk: Trunk,
    pub routing: Routing,
    pub counterfactual: Counterfactual,
    pub temporal: Temporal,
    pub quantisation: Quantisation,
}

/// What frame and word tokens go through before they are routed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trunk {
    /// Pre-norm transformer layers over the frames of a video; 0 for none.
    pub layers: usize,
    /// Attention heads; they divide `model.dim`.
    pub heads: usize,
    /// Width of a layer's hidden rows, in multiples of `model.dim`.
    pub expansion: usize,
    /// Whether frames know their seconds and words their places.
    pub positions: bool,
    /// Width in frames of the depthwise temporal convolution of the motion channel, odd; 0 for no motion channel.
    pub motion: usize,
    /// Whether tokens are standardised by the mean and the deviation of each dimension in the training split.
    pub standardise: bool,
    /// Whether words learn of their sentence through a hidden layer: for word vectors that do not know their context.
    pub mixing: bool,
    /// Weight of the loss of the pooled vectors, which the first stage of a search ranks by.
    pub pooled: f32,
}

impl Default for Trunk {
    fn default() -> Trunk {
        Trunk {
            layers: 2,
            heads: 8,
            expansion: 4,
            positions: true,
            motion: 3,
            standardise: true,
            mixing: false,
            pooled: 0.5,
        }
    }
}

/// How a frame token meets the experts.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoutingMode {
    /// No experts: frame tokens are scored as the trunk gives them.
    Off,
    /// Instead of experts one hidden layer with as many parameters.
    Dense,
    /// A mixture of all experts.
    Soft,
    /// A mixture of the `slots` experts that a query and a frame agree on most.
    TopkQuery,
    /// A frame token goes to `slots` experts of its own choice when its video is encoded; the query weighs among them.
    TopkToken,
}

/// How experts share their parameters.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sharing {
    /// One matrix for all, and for each a product of low rank and a diagonal.
    LowRank,
    /// A whole matrix each: the control.
    Full,
}

/// What the gates of a pair depend on.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Router {
    /// On the query and on the frame.
    Query,
    /// On the frame alone: an ablation.
    Frame,
    /// On a query and a frame through weights that are drawn once and never learned: a control.
    Random,
    /// On the query beside this one in its batch: a control for models that were trained with their own.
    Neighbour,
}

/// Query-adaptive semantic routing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Routing {
    pub mode: RoutingMode,
    /// Experts, 1 to 16.
    pub experts: usize,
    /// Experts that a token keeps in the top-k modes.
    pub slots: usize,
    /// Rank of what an expert adds to the shared matrix.
    pub rank: usize,
    pub sharing: Sharing,
    pub router: Router,
    /// Weight of the loss that balances the experts' shares.
    pub balance: f32,
    /// Weight of the mean squared log-sum of the router's logits.
    pub z: f32,
    /// Weight of the squared cosines between what different experts add.
    pub decorrelation: f32,
    /// Whether `topk-token` takes from a frame's logits their mean over the video: frames of one video look alike, and
    /// without it all of them keep the same experts.
    pub centre: bool,
    /// Whether the logits of `topk-token` know the frame's seconds: it needs something to tell frames apart by.
    /// Without `trunk.positions` there are none.
    pub timed: bool,
    /// Whether training with `topk-token` adds noise of learned size to the logits.
    pub noise: bool,
    /// Deviation of the normal noise on a query's logits while training. Experts that are told apart by less than the
    /// noise are not told apart, so gates come to decide by a margin, and not by what else a query says.
    pub query_noise: f32,
    /// Learning rate of the router's logits of queries and frames over that of the rest. Experts part before a slow
    /// router has a say. What tells a video's frames apart, their seconds, is not slowed.
    pub pace: f32,
}

impl Default for Routing {
    fn default() -> Routing {
        Routing {
            mode: RoutingMode::Soft,
            experts: 4,
            slots: 2,
            rank: 16,
            sharing: Sharing::LowRank,
            router: Router::Query,
            balance: 0.01,
            z: 1e-3,
            decorrelation: 0.01,
            centre: true,
            timed: true,
            noise: true,
            query_noise: 0.0,
            pace: 1.0,
        }
    }
}

/// Where the mask of the frames that matter comes from while training.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Foreground {
    /// The half of the frames that the words of the matched text meet best.
    Learned,
    /// From the batch: the truth or a random mask, for experiments.
    Given,
}

/// What a swapped video takes from another.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Swap {
    /// Its background frames are replaced by frames of others.
    Frames,
    /// In all frames the mean of its background frames gives way to another's: a background may be seen behind the
    /// foreground, too.
    Mean,
}

/// The counterfactual branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Counterfactual {
    /// Weight of the loss that makes the background alone say nothing.
    pub uniform: f32,
    /// Weight of the losses of videos whose background is swapped.
    pub swap: f32,
    pub exchange: Swap,
    /// How far the foreground alone has to score above the background alone, on average over pairs of the validation
    /// split (of the training split where there is no other), before swapped videos are learned from; below it the gate
    /// is shut again. A score lies between −1 and 1: with −2 the gate is always open.
    pub gate: f32,
    /// Weight of the loss that keeps the background's score below the video's.
    pub margin: f32,
    /// Weight, in the loss, of the negative with the most similar background; 1 is that of any other.
    pub hard_negatives: f32,
    pub foreground: Foreground,
}

impl Default for Counterfactual {
    fn default() -> Counterfactual {
        Counterfactual {
            uniform: 0.5,
            swap: 0.0,
            exchange: Swap::Mean,
            gate: 0.2,
            margin: 0.0,
            hard_negatives: 1.0,
            foreground: Foreground::Learned,
        }
    }
}

/// Temporal causal regularisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Temporal {
    /// Weight of the divergence between the scores of a video and of its perturbed self.
    pub consistency: f32,
    /// Weight of the contrastive loss of perturbed videos: plain augmentation.
    pub augment: f32,
    /// Weight of the loss that a reversed video scores lower, for captions that tell an order.
    pub order: f32,
    /// Share of the frames that a perturbation drops.
    pub drop: f32,
    /// Whether it shows some frames a place early or late.
    pub jitter: bool,
    /// Slowest and fastest speed of its time axis.
    pub slowest: f32,
    pub fastest: f32,
}

impl Default for Temporal {
    fn default() -> Temporal {
        Temporal { consistency: 3.0, augment: 0.0, order: 0.0, drop: 0.25, jitter: true, slowest: 0.75, fastest: 1.33 }
    }
}

impl Temporal {
    pub fn perturbation(&self) -> Perturbation {
        Perturbation { drop: Some(self.drop), jitter: self.jitter, speed: Some(self.slowest..=self.fastest) }
    }
}

/// Projections in int8, and training that prepares for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quantisation {
    /// Whether projections are rounded as int8 rounds them, at any time.
    pub int8: bool,
    /// Share of the steps after which training rounds them; 1 for never.
    pub from: f32,
}

impl Default for Quantisation {
    fn default() -> Quantisation {
        Quantisation { int8: false, from: 1.0 }
    }
}

/// The modules that `--ablate` takes.
pub const MODULES: [&str; 3] = ["routing", "counterfactual", "temporal"];

impl CbaConfig {
    /// The model without one of [`MODULES`].
    ///
    /// # Errors
    /// When there is no such module.
    pub fn ablate(&mut self, module: &str) -> Result<()> {
        match module {
            "routing" => self.routing.mode = RoutingMode::Off,
            "counterfactual" => {
                let c = &mut self.counterfactual;
                (c.uniform, c.swap, c.margin, c.hard_negatives) = (0.0, 0.0, 0.0, 1.0);
            }
            "temporal" => {
                self.temporal = Temporal { consistency: 0.0, augment: 0.0, order: 0.0, ..self.temporal.clone() };
            }
            _ => {
                let fix = format!("use some of {}, separated by commas", MODULES.join(", "));
                return Err(Error::config("--ablate", format!("there is no module {module:?}"), fix));
            }
        }
        Ok(())
    }

    /// # Errors
    /// Names the key whose value is impossible.
    pub fn check(&self, dim: usize) -> Result<()> {
        let refuse = |key: &str, value: String, fix: String| Err(Error::config(key, format!("is {value}"), fix));
        let (t, r) = (&self.trunk, &self.routing);
        for (key, value, low, high) in [
            ("trunk.layers", t.layers, 0, 24),
            ("trunk.heads", t.heads, 1, 64),
            ("trunk.expansion", t.expansion, 1, 8),
            ("trunk.motion", t.motion, 0, 31),
            ("routing.experts", r.experts, 1, 16),
            ("routing.slots", r.slots, 1, r.experts),
            ("routing.rank", r.rank, 1, dim),
        ] {
            if value < low || value > high {
                return refuse(key, value.to_string(), format!("use a number from {low} to {high}"));
            }
        }
        if !dim.is_multiple_of(t.heads) {
            return refuse("trunk.heads", t.heads.to_string(), format!("use a divisor of model.dim, which is {dim}"));
        }
        if t.motion > 0 && t.motion.is_multiple_of(2) {
            return refuse("trunk.motion", t.motion.to_string(), "use an odd number, or 0 for none".into());
        }
        let (c, p) = (&self.counterfactual, &self.temporal);
        for (key, value, low, high) in [
            ("trunk.pooled", t.pooled, 0.0, 1e3),
            ("routing.balance", r.balance, 0.0, 1e3),
            ("routing.z", r.z, 0.0, 1e3),
            ("routing.decorrelation", r.decorrelation, 0.0, 1e3),
            ("routing.query_noise", r.query_noise, 0.0, 1e3),
            ("routing.pace", r.pace, 0.0, 1e3),
            ("counterfactual.uniform", c.uniform, 0.0, 1e3),
            ("counterfactual.swap", c.swap, 0.0, 1e3),
            ("counterfactual.gate", c.gate, -2.0, 2.0),
            ("counterfactual.margin", c.margin, 0.0, 1e3),
            ("counterfactual.hard_negatives", c.hard_negatives, 1.0, 1e3),
            ("temporal.consistency", p.consistency, 0.0, 1e3),
            ("temporal.augment", p.augment, 0.0, 1e3),
            ("temporal.order", p.order, 0.0, 1e3),
            ("temporal.drop", p.drop, 0.0, 0.9),
            ("temporal.slowest", p.slowest, 0.25, 1.0),
            ("temporal.fastest", p.fastest, 1.0, 4.0),
            ("quantisation.from", self.quantisation.from, 0.0, 1.0),
        ] {
            if !(low..=high).contains(&value) {
                return refuse(key, value.to_string(), format!("use a number from {low} to {high}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// docs/cba.md lists every key, in the order of its table, with the default that it has.
    #[test]
    fn the_page_tells_every_key_and_its_default() {
        let page = std::fs::read_to_string("docs/cba.md").unwrap();
        let Value::Object(tables) = serde_json::to_value(CbaConfig::default()).unwrap() else { panic!() };
        for (table, keys) in tables {
            let section = page.split("\n## ").find(|s| s.starts_with(&format!("[{table}]"))).expect(&table);
            let rows: Vec<Vec<&str>> = section
                .lines()
                .filter(|line| line.starts_with("| ") && !line.starts_with("| key"))
                .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
                .collect();
            let Value::Object(keys) = keys else { panic!() };
            assert_eq!(rows.len(), keys.len(), "{table}");
            for row in rows {
                let told = match &keys[row[0]] {
                    // As an f32 is written.
                    Value::Number(n) => (n.as_f64().unwrap() as f32).to_string(),
                    Value::String(s) => s.clone(),
                    other => other.to_string(),
                };
                assert_eq!(row[1], told, "{table}.{}", row[0]);
            }
        }
    }
}
