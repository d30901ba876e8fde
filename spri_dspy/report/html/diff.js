"use strict";
// Word-level differences of two texts: what was taken out and put in on the way from one to the other.

const LONGEST_TABLE = 4_000_000; // cells of the table below: beyond that two texts are not compared

function tokens(text) {
  return text.match(/\s+|[\p{L}\p{N}\p{M}_'’-]+|[^\s\p{L}\p{N}\p{M}_]/gu) || [];
}

// The way from one text to another as [kind, text] with kind same, out or in; null where they are too long.
function wordDiff(before, after) {
  const a = tokens(before), b = tokens(after);
  let start = 0, end = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const x = a.slice(start, a.length - end), y = b.slice(start, b.length - end);
  const width = y.length + 1;
  if ((x.length + 1) * width > LONGEST_TABLE) return null;
  const longest = new Uint16Array((x.length + 1) * width); // of the common subsequence from (i, j) on
  for (let i = x.length - 1; i >= 0; i--)
    for (let j = y.length - 1; j >= 0; j--)
      longest[i * width + j] = x[i] === y[j]
        ? longest[(i + 1) * width + j + 1] + 1
        : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
  const parts = [];
  const add = (kind, text) => {
    const last = parts[parts.length - 1];
    if (last && last[0] === kind) last[1] += text;
    else if (text) parts.push([kind, text]);
  };
  add("same", a.slice(0, start).join(""));
  let i = 0, j = 0;
  while (i < x.length || j < y.length) {
    if (i < x.length && j < y.length && x[i] === y[j]) { add("same", x[i]); i++; j++; }
    else if (j >= y.length || (i < x.length && longest[(i + 1) * width + j] >= longest[i * width + j + 1])) add("out", x[i++]);
    else add("in", y[j++]);
  }
  add("same", a.slice(a.length - end).join(""));
  return inPhrases(parts);
}

const FEWEST_LETTERS = 8; // of what stayed between two changes: less is not worth reading apart

// Changes with little between them as one: what was taken out, then what was put in.
function inPhrases(parts) {
  const joined = [];
  let out = "", put = "";
  const flush = () => {
    if (out) joined.push(["out", out]);
    if (put) joined.push(["in", put]);
    out = put = "";
  };
  parts.forEach(([kind, text], place) => {
    const isBetween = place > 0 && place < parts.length - 1 && text.length < FEWEST_LETTERS && !text.includes("\n");
    if (kind === "out") out += text;
    else if (kind === "in") put += text;
    else if (isBetween) { out += text; put += text; }
    else { flush(); joined.push([kind, text]); }
  });
  flush();
  return joined;
}

// The share of the later text that was there before, in [0, 1].
function keptShare(parts) {
  const length = (kinds) => parts.filter(([kind]) => kinds.includes(kind)).reduce((sum, [, text]) => sum + text.length, 0);
  return length(["same"]) / Math.max(1, length(["same", "in"]));
}
