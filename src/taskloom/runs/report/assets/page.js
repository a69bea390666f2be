(() => {
  "use strict";
  const root = document.documentElement;
  const said = document.getElementById("said");
  const say = (text) => { said.textContent = text; };

  // Theme: the system's choice until the button is used, then the reader's.
  const button = document.getElementById("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const store = (value) => { try { localStorage.setItem("taskloom-theme", value); } catch { /* private */ } };
  const stored = () => { try { return localStorage.getItem("taskloom-theme"); } catch { return null; } };
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const name = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
  };
  if (["light", "dark"].includes(stored())) root.dataset.theme = stored();
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    store(root.dataset.theme);
    name();
  });
  system.addEventListener("change", name);
  name();

  // Copy.
  const byHand = (text) => {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done ? Promise.resolve() : Promise.reject(new Error("copying is not allowed"));
  };
  const copy = (text) =>
    navigator.clipboard ? navigator.clipboard.writeText(text).catch(() => byHand(text)) : byHand(text);
  for (const each of document.querySelectorAll(".copy")) {
    each.addEventListener("click", () => {
      const text = each.parentElement.querySelector("code").textContent;
      copy(text).then(
        () => { each.textContent = "Copied"; say("Copied"); setTimeout(() => { each.textContent = "Copy"; }, 2000); },
        () => say("Copying is not allowed here: select the text instead"),
      );
    });
  }

  // Sort: a column's button orders the rows; numbers before text, the reading order on a tie.
  const compare = (a, b) => {
    const [x, y] = [Number(a), Number(b)];
    return a !== "" && b !== "" && !Number.isNaN(x) && !Number.isNaN(y) ? x - y : a.localeCompare(b);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const numeric = head.classList.contains("num");
        const first = numeric ? "descending" : "ascending";
        const other = numeric ? "ascending" : "descending";
        const order = head.getAttribute("aria-sort") === first ? other : first;
        heads.forEach((each) => each.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => sign * compare(a.cells[column].dataset.sort, b.cells[column].dataset.sort));
        table.tBodies[0].append(...rows);
        say(`Sorted by ${head.querySelector("button").textContent}, ${order}`);
      });
    });
  }
})();
