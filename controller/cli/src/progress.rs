//! Live progress: one line per node on a terminal, one line per change elsewhere. Standard error only.

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    time::{Duration, Instant},
};

use console::style;
use fleet_proto::v1::{NodeProgress, NodeState, Progress, StepProgress, StepState, progress::What};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::words;

/// Shows what a run tells.
pub struct Screen {
    started: Instant,
    live: Option<Live>,
    states: BTreeMap<String, NodeState>,
}

/// Bars on a terminal.
struct Live {
    bars: MultiProgress,
    steps: ProgressBar,
    nodes: BTreeMap<String, ProgressBar>,
    done: usize,
    open: Vec<String>,
}

impl Screen {
    /// Live if standard error is a terminal.
    pub fn new() -> Self {
        let live = std::io::stderr().is_terminal().then(|| {
            let bars = MultiProgress::new();
            let steps = bars.add(bar("cloud"));
            Live { bars, steps, nodes: BTreeMap::new(), done: 0, open: Vec::new() }
        });
        Self { started: Instant::now(), live, states: BTreeMap::new() }
    }

    /// One line about the run as a whole.
    pub fn note(&self, text: &str) {
        match &self.live {
            // A terminal that cannot be written to is not worth failing a run for.
            Some(live) => drop(live.bars.println(text)),
            None => eprintln!("{} {text}", self.clock()),
        }
    }

    /// Shows one message of a run.
    pub fn show(&mut self, progress: &Progress) {
        match &progress.what {
            Some(What::Step(step)) => self.step(step),
            Some(What::Node(node)) => self.node(node),
            Some(What::Note(text)) => self.note(text),
            Some(What::Finished(_)) | None => {}
        }
    }

    /// Leaves the last state of every line on the screen.
    pub fn end(&self) {
        if let Some(live) = &self.live {
            live.steps.finish_and_clear();
            for bar in live.nodes.values() {
                bar.abandon();
            }
        }
    }

    fn clock(&self) -> String {
        format!("{:7.1}s", self.started.elapsed().as_secs_f32())
    }

    fn step(&mut self, step: &StepProgress) {
        let doing = words::doing(step.verb(), &step.kind);
        let what = format!("{doing} {} in {}", step.name, step.location);
        let failed = step.state() == StepState::Failed;
        let clock = self.clock();
        match &mut self.live {
            Some(live) => {
                live.open.retain(|open| *open != what);
                match step.state() {
                    StepState::Started | StepState::Waiting => live.open.push(what.clone()),
                    StepState::Done => live.done += 1,
                    StepState::Failed | StepState::Unspecified => {}
                }
                if failed {
                    let text = format!("{} {what}: {}", style("failed").red(), step.detail);
                    drop(live.bars.println(text));
                }
                let now = live.open.first().cloned().unwrap_or_default();
                let more = live.open.len().saturating_sub(1);
                let more = if more > 0 { format!(" (+{more} more)") } else { String::new() };
                live.steps.set_message(format!("{} done  {now}{more}", live.done));
            }
            None => {
                let detail =
                    if step.detail.is_empty() { String::new() } else { format!(": {}", step.detail) };
                match step.state() {
                    StepState::Done => eprintln!("{clock} done    {what}"),
                    StepState::Failed => eprintln!("{clock} failed  {what}{detail}"),
                    // Polls would drown a log file.
                    StepState::Started | StepState::Waiting | StepState::Unspecified => {}
                }
            }
        }
    }

    fn node(&mut self, node: &NodeProgress) {
        let state = node.state();
        let changed = self.states.insert(node.node.clone(), state) != Some(state);
        let clock = self.clock();
        match &mut self.live {
            Some(live) => {
                let bars = live.bars.clone();
                let bar = live.nodes.entry(node.node.clone()).or_insert_with(|| bars.add(bar(&node.node)));
                let word = words::state(state);
                let word = match state {
                    NodeState::NodeReady => style(word).green(),
                    NodeState::NodeFailed => style(word).red(),
                    _ => style(word).cyan(),
                };
                bar.set_message(format!("{word:<11}  {}", node.detail));
                if matches!(state, NodeState::NodeReady | NodeState::NodeFailed | NodeState::NodeGone) {
                    bar.abandon();
                }
            }
            None if changed => {
                let line = format!("{clock} {:<24} {:<11} {}", node.node, words::state(state), node.detail);
                eprintln!("{}", line.trim_end());
            }
            None => {}
        }
    }
}

fn bar(name: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {prefix:24} {elapsed:>4} {wide_msg}")
        .expect("the template is a constant that parses");
    let bar = ProgressBar::new_spinner().with_style(style).with_prefix(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
