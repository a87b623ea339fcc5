//! What disturbs everything else on the cluster, one after the other and by itself: a node is emptied or dies, the operator is taken away.

mod drain;
mod install;
mod node;
