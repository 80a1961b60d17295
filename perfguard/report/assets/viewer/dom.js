// Elements of the page. Every text reaches it through textContent or setAttribute: a frame's name is data, never markup.

export const byId = (id) => document.getElementById(id);

export function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

export function fill(select, options, chosen) {
  select.replaceChildren();
  for (const [value, name] of options) {
    const option = make("option", name);
    option.value = value;
    option.selected = value === chosen;
    select.append(option);
  }
}

export function later(delayMs, run) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...given), delayMs);
  };
}
