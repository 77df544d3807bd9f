"use strict";
const field = document.getElementById("filter");
const found = document.getElementById("found");
const rows = [...document.querySelectorAll("#tensors tbody tr")].map((row) => [row, row.textContent.toLowerCase()]);
field.closest("p").hidden = false;
field.addEventListener("input", () => {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const [row, text] of rows) {
    row.hidden = !words.every((word) => text.includes(word));
    shown += row.hidden ? 0 : 1;
  }
  found.textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
});
