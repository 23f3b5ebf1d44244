//! Which video each text belongs to.

use crate::error::{Error, Result};

/// One relevant video per text; a video has any number of captions, also none (then it is gallery only).
#[derive(Clone, Debug)]
pub struct Relevance {
    /// `[texts]`: the video of each text.
    owner: Vec<u32>,
    /// `[videos + 1]`: where each video's captions begin in `captions`.
    start: Vec<u32>,
    /// `[texts]`: text numbers ordered by video, then by number.
    captions: Vec<u32>,
}

impl Relevance {
    /// `owner[text]` is the number of that text's video, below `videos`.
    ///
    /// # Errors
    /// [`Error::Data`] when a text names a video that is not there; [`Error::Shape`] when either side is empty or too
    /// many to count in 32 bits.
    pub fn new(owner: Vec<u32>, videos: usize) -> Result<Self> {
        if owner.is_empty() || videos == 0 {
            return Err(Error::shape(
                "relevance",
                format!("{} texts and {videos} videos leave nothing to rank", owner.len()),
            ));
        }
        // Strictly below, so that `number of texts + 1` and every counter fits in a u32 too.
        if owner.len() >= u32::MAX as usize || videos >= u32::MAX as usize {
            return Err(Error::shape(
                "relevance",
                format!("{} texts and {videos} videos: at most {} of each can be counted", owner.len(), u32::MAX - 1),
            ));
        }
        let mut start = vec![0u32; videos + 1];
        for (text, &video) in owner.iter().enumerate() {
            match start.get_mut(video as usize + 1) {
                Some(count) => *count += 1,
                None => {
                    return Err(Error::data(
                        "relevance",
                        format!("text {text}"),
                        format!("its video is number {video}, but there are {videos} videos (counted from 0)"),
                        "check that texts and videos come from the same split",
                    ));
                }
            }
        }
        for video in 0..videos {
            start[video + 1] += start[video];
        }
        let mut next = start.clone();
        let mut captions = vec![0u32; owner.len()];
        for (text, &video) in owner.iter().enumerate() {
            let place = &mut next[video as usize];
            captions[*place as usize] = text as u32;
            *place += 1;
        }
        Ok(Relevance { owner, start, captions })
    }

    /// Text i belongs to video i: MSR-VTT 1k-A and its like.
    pub fn one_to_one(pairs: usize) -> Result<Self> {
        // `new` refuses a number beyond u32; the cast only matters below that.
        Self::new((0..pairs.min(u32::MAX as usize)).map(|i| i as u32).collect(), pairs)
    }

    pub fn texts(&self) -> usize {
        self.owner.len()
    }

    pub fn videos(&self) -> usize {
        self.start.len() - 1
    }

    /// `[texts]`: the video of each text.
    pub fn owners(&self) -> &[u32] {
        &self.owner
    }

    /// The captions of `video`, in ascending order; empty for a video without any or beyond the last.
    pub fn captions_of(&self, video: usize) -> &[u32] {
        match (self.start.get(video), self.start.get(video.saturating_add(1))) {
            (Some(&begin), Some(&end)) => &self.captions[begin as usize..end as usize],
            _ => &[],
        }
    }

    /// The largest number of captions of any video.
    pub fn most_captions(&self) -> usize {
        self.start.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_are_found_in_any_order() {
        let relevance = Relevance::new(vec![2, 0, 2, 0, 2], 4).unwrap();
        assert_eq!(relevance.captions_of(0), [1, 3]);
        assert!(relevance.captions_of(1).is_empty());
        assert_eq!(relevance.captions_of(2), [0, 2, 4]);
        assert!(relevance.captions_of(usize::MAX).is_empty());
        assert_eq!((relevance.texts(), relevance.videos(), relevance.most_captions()), (5, 4, 3));
    }

    #[test]
    fn a_text_of_no_video_is_named() {
        let error = Relevance::new(vec![0, 9], 3).unwrap_err().to_string();
        assert!(error.contains("text 1") && error.contains('9'), "{error}");
        assert!(Relevance::new(vec![], 3).is_err() && Relevance::new(vec![0], 0).is_err());
    }
}
