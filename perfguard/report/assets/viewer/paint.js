// Draws bars on the canvas. The canvas is as high as what is on the screen, and follows the scrolling: a graph may be
// thousands of rows deep. Colours are the style sheet's, so that light, dark and print need no code.
import { byId, make } from "./dom.js";

export const ROW_PX = 20;
const PAD_PX = 4;
const TONES = [
  "noise", "grew-1", "grew-2", "grew-3", "grew-4", "shrank-1", "shrank-2", "shrank-3", "shrank-4",
  "bar-0", "bar-1", "bar-2", "bar-3", "bar-4", "bar-5",
];
const PRINT_MOST_ROWS = 400;

let theme = null;

// Stripes lean to the right where the cost grew and to the left where it shrank: colour is not the only sign.
function stripes(context, colour, rises) {
  const tile = make("canvas");
  tile.width = tile.height = 8;
  const drawing = tile.getContext("2d");
  drawing.strokeStyle = colour;
  drawing.lineWidth = 1.6;
  for (const shift of [-8, 0, 8]) {
    drawing.beginPath();
    drawing.moveTo(shift, rises ? 8 : 0);
    drawing.lineTo(shift + 8, rises ? 0 : 8);
    drawing.stroke();
  }
  return context.createPattern(tile, "repeat");
}

export function forgetTheme() {
  theme = null;
}

export function currentTheme(context) {
  if (theme) return theme;
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue("--" + name).trim();
  theme = { font: "11.5px " + colour("mono"), ink: colour("bar-ink"), paper: colour("paper"), strong: colour("ink"), match: colour("match"),
    fill: Object.fromEntries(TONES.map((tone) => [tone, colour(tone)])) };
  if (context) {
    theme.grew = stripes(context, colour("stripe"), true);
    theme.shrank = stripes(context, colour("stripe"), false);
    context.font = theme.font;
    theme.letterPx = context.measureText("0").width;
  }
  return theme;
}

export function fit(text, letters) {
  return text.length <= letters ? text : letters > 2 ? text.slice(0, letters - 1) + "…" : "";
}

// Sets the canvas to what can be seen of `rows` rows; gives the rows that lie in it.
function fitCanvas(canvas, rows) {
  const scroller = byId("flame-scroll");
  scroller.style.height = byId("flame-space").style.height = rows * ROW_PX + "px"; // the style sheet says how high at most
  const isPrinted = matchMedia("print").matches;
  const width = scroller.clientWidth;
  const height = Math.min(isPrinted ? PRINT_MOST_ROWS * ROW_PX : scroller.clientHeight || ROW_PX, rows * ROW_PX);
  const pixels = window.devicePixelRatio || 1;
  const [wide, high] = [Math.round(width * pixels), Math.round(height * pixels)];
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
    canvas.style.width = width + "px";
    canvas.style.height = height + "px";
  }
  return { width, height, pixels, top: isPrinted ? 0 : scroller.scrollTop };
}

// `look(bar)` gives { tone, label, isMatch, isDim, isFocus } of a bar; it is asked only for what can be seen.
export function paint(bars, rows, look) {
  const canvas = byId("flame-graph");
  const { width, height, pixels, top } = fitCanvas(canvas, rows);
  const context = canvas.getContext("2d");
  const colours = currentTheme(context);
  context.setTransform(pixels, 0, 0, pixels, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = colours.font;
  context.textBaseline = "middle";
  for (const bar of bars) {
    const y = bar.row * ROW_PX - top;
    if (y + ROW_PX <= 0 || y >= height) continue;
    paintBar(context, colours, bar, look(bar), bar.left * width, y, bar.width * width);
  }
  context.globalAlpha = 1;
}

function paintBar(context, colours, bar, { tone, label, isMatch, isDim, isFocus }, x, y, wide) {
  const box = [x, y, Math.max(0.5, wide - 1), ROW_PX - 1];
  context.globalAlpha = isDim ? 0.4 : bar.isAncestor ? 0.65 : 1;
  context.fillStyle = colours.fill[tone];
  context.fillRect(...box);
  const direction = tone.split("-")[0];
  if (direction === "grew" || direction === "shrank") {
    context.fillStyle = colours[direction];
    context.fillRect(...box);
  }
  const letters = Math.floor((wide - 2 * PAD_PX) / colours.letterPx);
  if (letters > 2) {
    context.fillStyle = colours.ink;
    context.fillText(fit(label(), letters), x + PAD_PX, y + ROW_PX / 2, wide - PAD_PX);
  }
  if (isMatch || isFocus) {
    context.globalAlpha = 1;
    context.lineWidth = 2;
    context.strokeStyle = isFocus ? colours.strong : colours.match;
    if (wide > 4) context.strokeRect(x + 1, y + 1, wide - 3, ROW_PX - 3);
    else {
      context.fillStyle = context.strokeStyle;
      context.fillRect(...box);
    }
  }
}
