// Elements of the page. Texts become text nodes and never markup, so that a file may be called anything.

/**
 * An HTML element.
 * @param {string} tag
 * @param {Object<string, string>} attributes
 * @param {...(Node|string|null)} children null is left out
 */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** An element of a drawing, likewise. */
export function drawn(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

/** A list of terms and what is said of each; terms without a value are left out. */
export function terms(pairs) {
  const list = element("dl", { class: "terms" });
  for (const [term, value] of pairs) {
    if (value !== null && value !== "") list.append(element("dt", {}, term), element("dd", {}, value));
  }
  return list;
}

/** The text of a name from elsewhere, whose direction of writing does not reach the words around it. */
export function foreign(text) {
  return element("bdi", {}, text);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}
