//! The baseline of the field: the cosine of a projected sentence vector and the mean of projected frame tokens
//! (CLIP4Clip, Luo et al. 2021, section 3.3, "parameter-free type").

use super::batch::{TextInputs, VideoInputs};
use super::{Config, Model, TextSide, VideoSide};
use crate::engine::graph::{Graph, Value};
use crate::engine::op::linear::{LINEAR, Linear};
use crate::engine::op::norm::Unit;
use crate::engine::op::segment::{SegmentKind, SegmentReduce};
use crate::engine::parameters::{Parameters, Weights};
use crate::error::Result;

/// `S_ij = cos(P_t q_i, mean_t norm(P_v v_jt))`
pub struct MeanPool {
    config: Config,
    parameters: Parameters,
}

impl MeanPool {
    pub fn new(config: Config) -> MeanPool {
        let mut parameters = Parameters::default();
        parameters.linear("text", config.dim, config.text_dim);
        parameters.linear("video", config.dim, config.video_dim);
        parameters.log_scale("log_scale");
        MeanPool { config, parameters }
    }
}

impl Model for MeanPool {
    fn config(&self) -> &Config {
        &self.config
    }
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }
    fn text(&self, g: &mut Graph, w: &Weights, text: &TextInputs) -> Result<Vec<Value>> {
        let last = SegmentReduce { kind: SegmentKind::Last, tail: 0 };
        let sentence = g.apply(last, &[text.words, text.segments])?;
        let joint = project(g, w, "text", sentence)?;
        Ok(vec![g.apply(Unit, &[joint])?])
    }
    fn video(&self, g: &mut Graph, w: &Weights, video: &VideoInputs) -> Result<Vec<Value>> {
        let joint = project(g, w, "video", video.frames)?;
        let unit = g.apply(Unit, &[joint])?;
        let mean = g.apply(SegmentReduce { kind: SegmentKind::Mean, tail: 0 }, &[unit, video.segments])?;
        Ok(vec![g.apply(Unit, &[mean])?])
    }
    fn scores(&self, g: &mut Graph, text: &TextSide, video: &VideoSide) -> Result<Value> {
        let none = Value::ABSENT;
        g.apply(Linear::new(false, true), &[text.tensors[0], video.tensors[0], none, none])
    }
    fn evidence(&self, _: &mut Graph, _: &TextSide, video: &VideoSide) -> Result<Vec<(&'static str, Value)>> {
        Ok(vec![("pooled", video.tensors[0])])
    }
}

/// `x Wᵀ + b` with the parameters of that name.
pub(super) fn project(g: &mut Graph, w: &Weights, name: &str, x: Value) -> Result<Value> {
    let (weight, bias) = (w.get(&format!("{name}.weight"))?, w.get(&format!("{name}.bias"))?);
    g.apply(LINEAR.clone(), &[x, weight, bias, Value::ABSENT])
}
