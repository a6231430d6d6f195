// The three ways in: chosen, dropped and pasted files.

/**
 * Hands on every file that comes in, with its name; of a dropped folder all files below it.
 * @param {{button: HTMLElement, input: HTMLInputElement, isOpen: function(): boolean}} parts
 * @param {function(Array<{file: File, name: string}>)} onFiles
 * @param {function(string)} onNothing called with a sentence where there is no file in what came
 */
export function listen({ button, input, isOpen }, onFiles, onNothing) {
  button.addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    onFiles([...input.files].map((file) => ({ file, name: file.name })));
    input.value = ""; // so that the same file can be chosen again
  });
  listenForDrops(isOpen, onFiles, onNothing);
  let pasted = 0;
  document.addEventListener("paste", (event) => {
    if (!isOpen() || event.target.closest?.("input, textarea")) return;
    event.preventDefault();
    const files = [...event.clipboardData.files];
    if (files.length === 0) onNothing("The clipboard holds no image: copy an image, or a file, and paste it again.");
    else onFiles(files.map((file) => ({ file, name: file.name === "image.png" ? `pasted ${++pasted}.png` : file.name })));
  });
}

function listenForDrops(isOpen, onFiles, onNothing) {
  const page = document.documentElement;
  const mark = (isOver) => page.classList.toggle("dragged-over", isOver && isOpen());
  page.addEventListener("dragover", (event) => {
    event.preventDefault();
    event.dataTransfer.dropEffect = isOpen() ? "copy" : "none";
    mark(true);
  });
  page.addEventListener("dragleave", (event) => mark(event.relatedTarget !== null));
  page.addEventListener("drop", async (event) => {
    event.preventDefault(); // the browser would leave the page and open the file
    mark(false);
    if (!isOpen()) return;
    const files = await droppedFiles(event.dataTransfer);
    if (files.length === 0) onNothing("Nothing was dropped that is a file: addresses and texts are not taken.");
    else onFiles(files);
  });
}

async function droppedFiles(transfer) {
  const entries = [...transfer.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry?.());
  if (entries.length === 0 || !entries.every(Boolean)) return [...transfer.files].map((file) => ({ file, name: file.name }));
  return (await Promise.all(entries.map(filesBelow))).flat();
}

/** A file as it is, a folder as all that lies below it, by name. */
async function filesBelow(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ file, name: entry.fullPath.replace(/^\//, "") }];
  }
  const reader = entry.createReader();
  const below = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // a hundred at a time
    if (some.length === 0) break;
    below.push(...some);
  }
  below.sort((one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }));
  return (await Promise.all(below.map(filesBelow))).flat();
}
