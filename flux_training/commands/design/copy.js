// Buttons that put their `data-copy` into the clipboard.
function copyOnClick(button) {
  const label = button.textContent;
  button.addEventListener("click", async () => {
    button.textContent = (await copyText(button.dataset.copy, button)) ? "Copied" : "Not allowed by the browser";
    setTimeout(() => { button.textContent = label; }, 2000);
  });
}

// A page that was not opened from this machine or over HTTPS has no clipboard: there the text is selected and copied, as by the keyboard.
async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = document.createElement("textarea");
    field.value = text;
    field.readOnly = true;
    button.after(field);
    field.select();
    const isCopied = document.execCommand("copy");
    field.remove();
    button.focus();
    return isCopied;
  }
}
