// Package pages checks what people read beside the code: that links between
// pages lead somewhere, that every page is reached from README.md, and that each
// part says under which licence it is. What a page claims about the programs is
// proven where the programs are tested; it may not enter here.
package pages
