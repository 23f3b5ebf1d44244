//! Pictures people look at: SVG figures and one HTML report that needs no network.
//!
//! Policy: the same input gives the same bytes (no dates, no random ids); every label is escaped; no coordinate is
//! ever NaN; figures follow the reader's light or dark scheme, by themselves and inside the report.

mod axis;
pub mod bars;
pub mod curves;
pub mod heat;
mod labels;
pub mod points;
pub mod report;
pub mod rows;
pub mod shares;
pub mod strip;
mod svg;
pub mod table;
pub mod timeline;

pub use bars::Bars;
pub use curves::Curves;
pub use heat::Heat;
pub use points::Points;
pub use report::Report;
pub use rows::Rows;
pub use shares::Shares;
pub use svg::{COLOURS, Figure};
pub use timeline::Timeline;
