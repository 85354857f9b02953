#include "training/html.h"

namespace accrete {
namespace {

// Colours and the plain elements of every page. --c0.. are the colours of series, chosen to differ in lightness as well
// as in hue.
constexpr std::string_view kStyle = R"css(
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1b1f27; --soft: #667085; --line: #e4e7ec; --grid: #eef0f3; --accent: #2563c9;
  --good: #16794c; --bad: #b42318;
  --c0: #2563c9; --c1: #d9630b; --c2: #178a5f; --c3: #9333b8; --c4: #c02a4b; --c5: #0d8aa5; --c6: #8a6a12; --c7: #5b6472;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12151b; --card: #1a1e26; --ink: #e8eaee; --soft: #98a2b3; --line: #2c323d; --grid: #242a34; --accent: #76a9fa;
    --good: #4cc38a; --bad: #f2777a;
    --c0: #76a9fa; --c1: #f5a35c; --c2: #4cc38a; --c3: #cf8df0; --c4: #f2788f; --c5: #52c5dd; --c6: #d5b14c; --c7: #aab2bf;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 28px 24px 64px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 36px 0 10px; }
p { margin: 6px 0; }
.soft { color: var(--soft); }
.good { color: var(--good); }
.bad { color: var(--bad); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 500; font-size: 13px; text-align: left; }
th, td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
td.n, th.n { text-align: right; white-space: nowrap; }
code, pre { font: 13px/1.5 ui-monospace, "SF Mono", "DejaVu Sans Mono", Menlo, monospace; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; }
)css";

// Length of the UTF-8 character at `i`; 0 when it is not one.
size_t character_length(std::string_view text, size_t i) {
  const auto byte = [&](size_t at) { return at < text.size() ? static_cast<unsigned char>(text[at]) : 0u; };
  const unsigned first = byte(i);
  const auto follows = [&](size_t count) {
    for (size_t k = 1; k <= count; ++k)
      if ((byte(i + k) & 0xC0) != 0x80) return false;
    return true;
  };
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF && follows(1)) return 2;
  if (first >= 0xE0 && first <= 0xEF && follows(2)) {
    const unsigned second = byte(i + 1);  // no longer form than needed, no surrogates
    return (first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F) ? 0 : 3;
  }
  if (first >= 0xF0 && first <= 0xF4 && follows(3)) {
    const unsigned second = byte(i + 1);
    return (first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F) ? 0 : 4;
  }
  return 0;
}

}  // namespace

std::string html_escape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    const size_t length = character_length(text, i);
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else if (c == '\'')
      out += "&#39;";
    else if (length == 0 || (length == 1 && (c < 32 || c == 127) && c != '\n' && c != '\t'))
      out += "\uFFFD";
    else
      out += text.substr(i, length);
    i += length == 0 ? 1 : length;
  }
  return out;
}

std::string html_json(const Json& value) {
  std::string out;
  for (const char c : value.dump(-1, ' ', false, Json::error_handler_t::replace)) {
    if (c == '<')
      out += "\\u003c";
    else
      out += c;
  }
  return out;
}

std::string html_page(std::string_view title, std::string_view body, std::string_view style, std::string_view script) {
  std::string page = "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";
  page += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";
  page +=
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
      "script-src 'unsafe-inline'; img-src data:\">\n";
  page += "<title>" + html_escape(title) + "</title>\n<style>";
  page.append(kStyle).append(style).append("</style>\n</head>\n<body>\n<main>\n").append(body).append("</main>\n");
  if (!script.empty()) page.append("<script>").append(script).append("</script>\n");
  return page + "</body>\n</html>\n";
}

}  // namespace accrete
