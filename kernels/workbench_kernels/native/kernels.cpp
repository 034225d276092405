// All kernels as one library: blocks run what the others are made of.

#include "../activation/activation.cpp"
#include "../blocks/blocks.cpp"
#include "../few_experts/few_experts.cpp"
#include "../few_rows/few_rows.cpp"
#include "../highest/highest.cpp"
#include "../rms_norm/rms_norm.cpp"
#include "../rotary/rotary.cpp"
#include "../tree_attention/tree_attention.cpp"
