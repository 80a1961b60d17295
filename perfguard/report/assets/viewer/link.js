// The view in the address: `#flame:view=diff&zoom=...`. Frames stand in it by a hash of their name, so that a link still
// finds its place after the report was made anew; a step that is gone ends the path there.

const PREFIX = "#flame:";
const MOST_LETTERS = 200;

export function writeLink(state, defaults) {
  const said = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (value !== defaults[name] && value !== "") said.set(name, value === true ? "1" : value === false ? "0" : String(value).slice(0, 4000));
  }
  const text = said.toString();
  // Another section's anchor stays until the viewer has something to say.
  if (!text && !location.hash.startsWith(PREFIX)) return;
  const hash = text ? PREFIX + text : "#flame";
  if (hash === location.hash) return;
  try {
    history.replaceState(null, "", hash);
  } catch {
    // A page without an origin (about:srcdoc) may not change its address; the view works without.
  }
}

// Gives what the address says, with the types of `defaults`; what it does not name is missing.
export function readLink(defaults) {
  if (!location.hash.startsWith(PREFIX)) return null;
  const said = {};
  for (const [name, value] of new URLSearchParams(location.hash.slice(PREFIX.length))) {
    if (!Object.prototype.hasOwnProperty.call(defaults, name)) continue;
    if (typeof defaults[name] === "boolean") said[name] = value === "1";
    else if (typeof defaults[name] === "number") said[name] = Number(value) || 0;
    else said[name] = name === "q" ? value.slice(0, MOST_LETTERS) : value;
  }
  return said;
}
