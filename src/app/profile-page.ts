/**
 * A step profile as one HTML file to look at: the step as a flame-like chart (step, layers, commands, time to the right), and the table by kind.
 * Self-contained: no script or style from elsewhere, all text escaped.
 */
import { escaped, htmlPage } from './html.ts';
import { type ProfiledCommand, profileRows, type StepProfile } from './step-profile.ts';

const COLOURS: Readonly<Record<string, string>> = {
  linear: '#4878a8',
  pagedAttention: '#c06040',
  mergeAttention: '#d09070',
  ropeKvStore: '#b0883a',
  rmsNorm: '#6a9a58',
  layerNorm: '#6a9a58',
  gatedActivation: '#8a68a8',
  quantize: '#7a8a96',
};
const OTHER_COLOUR = '#98a0a8';

function number(value: number, digits = 3): string {
  return value === 0 ? '' : value.toFixed(digits);
}

/** A bar of the chart, widths in percent of the step. */
function bar(
  leftMs: number,
  widthMs: number,
  allMs: number,
  options: { label: string; title: string; colour: string },
): string {
  const left = ((100 * leftMs) / allMs).toFixed(4);
  const width = ((100 * widthMs) / allMs).toFixed(4);
  return `<i style="left:${left}%;width:${width}%;background:${options.colour}" title="${escaped(options.title)}">${escaped(options.label)}</i>`;
}

function chart({ commands }: StepProfile): string {
  const allMs = commands.reduce((sum, c) => sum + c.workMs + c.waitMs, 0);
  const layers: string[] = [];
  const bars: string[] = [];
  let at = 0;
  let layerAt = 0;
  commands.forEach((command, i) => {
    const { workMs, waitMs } = command;
    bars.push(
      bar(at, workMs, allMs, {
        label: command.op,
        title: titleOf(command),
        colour: COLOURS[command.op] ?? OTHER_COLOUR,
      }),
    );
    at += workMs + waitMs;
    if (commands[i + 1]?.layer === command.layer) return;
    const title = `${command.layer}: ${(at - layerAt).toFixed(3)} ms`;
    layers.push(
      bar(layerAt, at - layerAt, allMs, { label: command.layer, title, colour: '#607080' }),
    );
    layerAt = at;
  });
  return `<div class="chart"><div>${layers.join('')}</div><div>${bars.join('')}</div></div>`;
}

function titleOf({ label, kernel, workMs, waitMs, weightBytes, macs }: ProfiledCommand): string {
  const seconds = (workMs + waitMs) / 1000;
  const rates = [
    weightBytes > 0 ? `${(weightBytes / seconds / 1e9).toFixed(1)} GB/s` : '',
    macs > 0 ? `${((2 * macs) / seconds / 1e9).toFixed(0)} GOPS` : '',
  ].filter((rate) => rate !== '');
  return [
    label,
    kernel,
    `${workMs.toFixed(4)} ms, then ${waitMs.toFixed(4)} ms at the barrier`,
    ...rates,
  ].join('\n');
}

function table(profile: StepProfile): string {
  const rows = profileRows(profile).map(
    (row) =>
      `<tr><td>${escaped(row.name)}</td><td>${escaped(row.kernel)}</td><td>${row.count}</td><td>${row.workMs.toFixed(3)}</td><td>${row.waitMs.toFixed(3)}</td><td>${(100 * row.share).toFixed(1)} %</td><td>${number(row.gigabytesPerSecond, 1)}</td><td>${number(row.gops, 0)}</td></tr>`,
  );
  const head = ['what', 'kernel', 'count', 'work ms', 'barrier ms', 'share', 'GB/s', 'GOPS'];
  return `<table><thead><tr>${head.map((title) => `<th>${title}</th>`).join('')}</tr></thead><tbody>${rows.join('')}</tbody></table>`;
}

const STYLE = `
:root { color-scheme: light dark; font: 14px/1.45 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
.scroll { overflow-x: auto; }
.chart { width: max(100%, 3000px); }
.chart div { position: relative; height: 1.7rem; margin-bottom: 2px; }
.chart i { position: absolute; box-sizing: border-box; height: 100%; border-right: 1px solid Canvas; overflow: hidden; white-space: nowrap;
  font: 11px/1.7rem ui-monospace, monospace; color: #fff; padding-left: 2px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 0.15rem 0.6rem; border-bottom: 1px solid color-mix(in srgb, CanvasText 15%, Canvas); }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
td:nth-child(2) { font: 12px ui-monospace, monospace; opacity: 0.75; }
`;

export function profilePage(model: string, profiles: readonly StepProfile[]): string {
  const sections = profiles.map((profile) => {
    const { numTokens, contextLen, threads, stepMs } = profile;
    const rate = (1000 * numTokens) / stepMs;
    const what =
      numTokens === 1
        ? `one token at context ${contextLen}`
        : `${numTokens} tokens to context ${contextLen}`;
    return `<section><h2>${what}, ${threads} ${threads === 1 ? 'thread' : 'threads'}: ${stepMs.toFixed(2)} ms, ${rate.toFixed(1)} tokens/s</h2>
<div class="scroll">${chart(profile)}</div>${table(profile)}</section>`;
  });
  const body = `<h1>${escaped(model)}: where a step goes</h1>
<p>Times of the calling thread, medians. A bar is a command of the plan; point at it for its kernel and rates. Gaps are waits at barriers.</p>
${sections.join('\n')}`;
  return htmlPage({ title: `${model}: one step`, style: STYLE, body });
}
