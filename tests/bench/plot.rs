//! Draws curves as SVG: time and memory over size, both axes logarithmic.

use std::fmt::Write as _;

/// A curve.
pub struct Line {
    /// What the legend calls it.
    pub name: String,
    /// Size and value, both above zero.
    pub points: Vec<(f64, f64)>,
    /// Whether it is drawn as a limit: dashed and grey.
    pub limit: bool,
}

/// A pair of axes with its curves.
pub struct Panel {
    /// Written above it.
    pub title: String,
    /// What the horizontal axis counts.
    pub across: String,
    /// The curves.
    pub lines: Vec<Line>,
}

/// Where a panel's axes are, in pixels.
const LEFT: f64 = 62.0;
const TOP: f64 = 36.0;
const WIDE: f64 = 330.0;
const HIGH: f64 = 250.0;
const PANEL: f64 = 430.0;
const LEGEND: f64 = 18.0;
/// Blue, orange, green, purple: told apart also by those who see few colours.
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

/// A picture with the panels side by side.
pub fn draw(panels: &[Panel]) -> String {
    let legend = panels.iter().map(|panel| panel.lines.len()).max().unwrap_or(0) as f64 * LEGEND;
    let (width, height) = (PANEL * panels.len() as f64, TOP + HIGH + 52.0 + legend);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    for (index, panel) in panels.iter().enumerate() {
        let _ = writeln!(svg, "<g transform=\"translate({} 0)\">", PANEL * index as f64);
        draw_panel(panel, &mut svg);
        svg.push_str("</g>\n");
    }
    svg + "</svg>\n"
}

fn draw_panel(panel: &Panel, svg: &mut String) {
    let points = || panel.lines.iter().flat_map(|line| &line.points);
    let across = Axis::over(points().map(|point| point.0), LEFT, LEFT + WIDE);
    let up = Axis::over(points().map(|point| point.1), TOP + HIGH, TOP);
    text(svg, LEFT + WIDE / 2.0, 20.0, "middle", &panel.title);
    for power in across.from..=across.to {
        let at = across.at(10f64.powi(power));
        rule(svg, (at, TOP), (at, TOP + HIGH));
        text(svg, at, TOP + HIGH + 18.0, "middle", &number(power));
    }
    for power in up.from..=up.to {
        let at = up.at(10f64.powi(power));
        rule(svg, (LEFT, at), (LEFT + WIDE, at));
        text(svg, LEFT - 6.0, at + 4.0, "end", &number(power));
    }
    text(svg, LEFT + WIDE / 2.0, TOP + HIGH + 36.0, "middle", &panel.across);
    for (index, line) in panel.lines.iter().enumerate() {
        let style = match line.limit {
            true => "stroke=\"#777777\" stroke-dasharray=\"5 4\"".to_owned(),
            false => format!("stroke=\"{}\"", COLOURS[index % COLOURS.len()]),
        };
        let at: Vec<(f64, f64)> =
            line.points.iter().map(|(x, y)| (across.at(*x), up.at(*y))).collect();
        let path: Vec<String> = at.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke-width=\"2\" {style} points=\"{}\"/>",
            path.join(" ")
        );
        for (x, y) in at.iter().filter(|_| !line.limit) {
            let _ = writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"none\" {style}/>"
            );
        }
        let y = TOP + HIGH + 56.0 + LEGEND * index as f64;
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke-width=\"2\" {style}/>",
            LEFT + 24.0
        );
        text(svg, LEFT + 32.0, y + 4.0, "start", &line.name);
    }
}

/// A logarithmic axis over whole powers of ten.
struct Axis {
    from: i32,
    to: i32,
    start: f64,
    end: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>, start: f64, end: f64) -> Self {
        let (mut from, mut to) = (i32::MAX, i32::MIN);
        for value in values {
            // A value that is a power of ten needs no room beside it.
            let exponent = value.log10();
            from = from.min((exponent + 1e-9).floor() as i32);
            to = to.max((exponent - 1e-9).ceil() as i32);
        }
        Self { from, to: to.max(from.saturating_add(1)), start, end }
    }

    fn at(&self, value: f64) -> f64 {
        let part = (value.log10() - f64::from(self.from)) / f64::from(self.to - self.from);
        self.start + (self.end - self.start) * part
    }
}

fn number(power: i32) -> String {
    match power {
        0.. => {
            let digits = 10f64.powi(power).to_string();
            let groups: Vec<&str> = digits
                .as_bytes()
                .rchunks(3)
                .rev()
                .map(|group| std::str::from_utf8(group).expect("digits are ASCII"))
                .collect();
            groups.join(",")
        }
        _ => format!("{}", 10f64.powi(power)),
    }
}

fn rule(svg: &mut String, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"#dddddd\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}
