--[[
Number sections, figures, tables and equations as Quarto does, and turn @fig-, @tbl-, @eq- and
@sec- into links that say "Figure 1".

The numbers become text here, once, so that HTML and PDF cannot disagree.
]]

local PREFIX = { fig = "Figure", tbl = "Table", eq = "Equation", sec = "Section" }
local NBSP = "\u{a0}"

local counts = { fig = 0, tbl = 0, eq = 0 }
local sections = {}
local numbers = {}

local function kind_of(identifier)
  local kind = identifier:match("^(%a+)%-")
  return PREFIX[kind] and kind
end

local function count(kind, identifier)
  counts[kind] = counts[kind] + 1
  numbers[identifier] = tostring(counts[kind])
  return numbers[identifier]
end

-- "Figure 1: " before the first word of a caption.
local function label_caption(blocks, kind, identifier)
  local label = PREFIX[kind] .. NBSP .. count(kind, identifier) .. ":"
  blocks[1].content:insert(1, pandoc.Space())
  blocks[1].content:insert(1, pandoc.Str(label))
end

local function number_header(header)
  if header.classes:includes("unnumbered") then
    return
  end
  for level = 1, header.level do
    sections[level] = sections[level] or 0
  end
  sections[header.level] = sections[header.level] + 1
  for level = header.level + 1, #sections do
    sections[level] = nil
  end
  numbers[header.identifier] = table.concat(sections, ".")
end

local function number_float(float)
  local kind = kind_of(float.identifier)
  if kind then
    label_caption(float.caption.long, kind, float.identifier)
    return float
  end
end

-- ::: {#tbl-x} around a table or {#fig-x} around an image, its caption the last paragraph.
local function number_div(div)
  local kind = kind_of(div.identifier)
  if kind ~= "fig" and kind ~= "tbl" then
    return
  end
  local caption = pandoc.Blocks { pandoc.Plain(div.content:remove().content) }
  label_caption(caption, kind, div.identifier)
  local float = div.content[1]
  if kind == "tbl" then
    float.identifier = div.identifier
    float.caption = { long = caption }
  else
    float = pandoc.Figure(div.content, { long = caption }, { id = div.identifier })
  end
  -- false: the caption has its number now, do not come by again.
  return pandoc.Blocks { float }, false
end

local function equation(math, identifier)
  local number = count("eq", identifier)
  if FORMAT == "typst" then
    return pandoc.Inlines {
      pandoc.RawInline("typst", '#math.equation(block: true, numbering: _ => "(' .. number .. ')", [ '),
      math,
      pandoc.RawInline("typst", " ])<" .. identifier .. ">"),
    }
  end
  math.text = math.text .. " \\qquad(" .. number .. ")"
  return pandoc.Inlines { pandoc.Span(math, { id = identifier }) }
end

local function number_equations(block)
  local result = pandoc.Inlines {}
  for _, inline in ipairs(block.content) do
    local identifier = inline.t == "Str" and inline.text:match("^{#(eq%-[^} ]+)}")
    if identifier then
      -- Drop the space between $$ and its label.
      while #result > 0 and result[#result].t ~= "Math" do
        result:remove()
      end
      local rest = inline.text:match("^{#[^}]+}(.*)$")
      result:extend(equation(result:remove(), identifier))
      if rest ~= "" then
        result:insert(pandoc.Str(rest))
      end
    else
      result:insert(inline)
    end
  end
  block.content = result
  return block
end

-- [@fig-a; @fig-b] is "Figure 1, Figure 2"; [see @fig-a] is "see 1"; [-@fig-a] is "1".
local function resolve(cite)
  local result = pandoc.Inlines {}
  for i, citation in ipairs(cite.citations) do
    local identifier = citation.id:sub(1, 1):lower() .. citation.id:sub(2)
    local kind = kind_of(identifier)
    if not kind then
      return nil
    end
    local number = assert(numbers[identifier], "unresolved reference @" .. citation.id)
    local text = pandoc.Inlines {}
    if #citation.prefix > 0 then
      text:extend(citation.prefix)
      text:insert(pandoc.Str(NBSP .. number))
    elseif citation.mode == "SuppressAuthor" then
      text:insert(pandoc.Str(number))
    else
      text:insert(pandoc.Str(PREFIX[kind] .. NBSP .. number))
    end
    if i > 1 then
      result:extend { pandoc.Str(","), pandoc.Space() }
    end
    result:insert(pandoc.Link(text, "#" .. identifier, "", { class = "quarto-xref" }))
  end
  return result
end

return {
  {
    traverse = "topdown",
    Header = number_header,
    Figure = number_float,
    Table = number_float,
    Div = number_div,
    Para = number_equations,
    Plain = number_equations,
  },
  { Cite = resolve },
}
