//! Pictures people look at: SVG and one self-contained HTML report.
