/**
 * Which bits each tensor of a model got, as one HTML file to look at: layers downwards, tensors across, coloured by bits, and how sensitive each was.
 * Self-contained: no script or style from elsewhere, all text escaped.
 */

import type { MixedPlan, MixedTensor } from '../compress/mixed-precision.ts';
import { escaped, htmlPage } from './html.ts';

const bitsOf = ({ bytes, elements }: MixedTensor): number => (8 * bytes) / elements;

/** `blk.3.ffn_up.weight` → layer 3, `ffn_up`. */
export function placeOf(name: string): { layer: number | null; part: string } {
  const match = /^blk\.(\d+)\.(.+?)(?:\.weight)?$/.exec(name);
  return match === null
    ? { layer: null, part: name.replace(/\.weight$/, '') }
    : { layer: Number(match[1]), part: match[2]! };
}

/** Few bits blue, many red. */
function colour(bits: number): string {
  const share = Math.max(0, Math.min(1, (bits - 2.5) / 6));
  return `hsl(${Math.round(215 - 205 * share)} 55% 38%)`;
}

/** Divergence as the height of the cell's bar, on a logarithmic scale over five decades. */
function barHeight(divergence: number, largest: number): number {
  if (!(divergence > 0) || !(largest > 0)) return 0;
  return Math.max(0, 100 + 20 * Math.log10(divergence / largest));
}

function cell(tensor: MixedTensor | undefined, largest: number): string {
  if (tensor === undefined) return '<td></td>';
  const { name, dtype, loss, probed } = tensor;
  const title = [
    name,
    `${dtype}, ${bitsOf(tensor).toFixed(2)} bits per weight`,
    `measured: ${probed.divergence.toExponential(2)} as ${probed.dtype}`,
    `predicted: ${loss.toExponential(2)} as ${dtype}`,
  ].join('\n');
  const height = barHeight(probed.divergence, largest).toFixed(0);
  return `<td style="background:${colour(bitsOf(tensor))}" title="${escaped(title)}">${escaped(dtype)}<i style="height:${height}%"></i></td>`;
}

const STYLE = `
:root { color-scheme: light dark; font: 14px/1.45 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
h1 { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 2px; }
th { font-weight: 600; padding: 0.1rem 0.5rem; text-align: left; }
td { position: relative; min-width: 5.5rem; height: 1.6rem; color: #fff; font: 12px ui-monospace, monospace; padding: 0 0.5rem; }
td i { position: absolute; right: 0; bottom: 0; width: 6px; background: #fff9; }
`;

export function allocationPage(model: string, plan: MixedPlan): string {
  const largest = Math.max(...plan.tensors.map(({ probed }) => probed.divergence));
  const placed = plan.tensors.map((tensor) => ({ tensor, ...placeOf(tensor.name) }));
  const parts = [...new Set(placed.filter((p) => p.layer !== null).map((p) => p.part))];
  const layers = [...new Set(placed.map((p) => p.layer))]
    .filter((layer) => layer !== null)
    .sort((a, b) => a - b);
  const others = placed.filter(({ layer }) => layer === null);
  const rows = layers.map((layer) => {
    const cells = parts.map((part) =>
      cell(placed.find((p) => p.layer === layer && p.part === part)?.tensor, largest),
    );
    return `<tr><th>${layer}</th>${cells.join('')}</tr>`;
  });
  const top = others.map(
    ({ part, tensor }) => `<tr><th>${escaped(part)}</th>${cell(tensor, largest)}</tr>`,
  );
  const body = `<h1>${escaped(model)}: ${plan.bitsPerWeight.toFixed(2)} bits per weight</h1>
<p>Colour: bits. White bar: KL divergence of the model's predictions with this tensor alone rounded, on a logarithmic scale over five decades. Point at a cell
for its numbers.</p>
<table>${top.join('')}</table>
<div class="scroll"><table><thead><tr><th>layer</th>${parts.map((part) => `<th>${escaped(part)}</th>`).join('')}</tr></thead><tbody>${rows.join('')}</tbody></table></div>
`;
  return htmlPage({ title: `${model}: bits by tensor`, style: STYLE, body });
}
